import Foundation
import Testing

/// What decides whether a test can run here, and in which form.
enum Conditions {
    /// The long forms: set by `Tests/run --long`.
    static let isLong = ProcessInfo.processInfo.environment["SAFEBACKUP_LONG"] == "1"

    /// Whether the program was built with the seam that lets tests fail a system call or die at a step.
    static var hasFaults: Bool {
        #if SAFEBACKUP_FAULTS
            true
        #else
            false
        #endif
    }
}

extension Trait where Self == ConditionTrait {
    static var needsLoopDevice: Self {
        .enabled(if: LoopDisk.isAvailable, "needs root and a loop device to mount an image of its own")
    }
    static var needsExFAT: Self {
        .enabled(if: LoopDisk.hasExFAT, "needs root, FUSE, mkfs.exfat and mount.exfat-fuse")
    }
    static var needsFaults: Self {
        .enabled(if: Conditions.hasFaults, "needs a debug build, as a release build has no fault seam")
    }
}
