import SafeBackupSystem
import SystemPackage
import Testing

#if canImport(Glibc)
    import Glibc
#endif

/// A journalled ext4, or an exFAT, on an image file, mounted. Its bench unmounts it.
final class LoopDisk {
    enum FileSystem {
        case ext4
        /// As on a memory stick: no links, no owners and modes, names that differ in case are one.
        case exFAT
    }

    private let fileSystem: FileSystem
    private(set) var image: FilePath
    let mountPoint: FilePath
    private var isMounted = false

    /// Makes and mounts a new one. `mebibytes` is its size, `blockSize` in bytes, `inodes` how many files it holds at most.
    init(
        in directory: FilePath, named name: String, mebibytes: Int, blockSize: Int = 4096, inodes: Int? = nil,
        _ fileSystem: FileSystem = .ext4
    ) throws {
        self.fileSystem = fileSystem
        image = directory.appending("\(name).image")
        mountPoint = directory.appending(name)
        try command(["truncate", "-s", FilePath("\(mebibytes)M"), image])
        try command(["mkdir", "-p", mountPoint])
        if fileSystem == .exFAT {
            try command(["mkfs.exfat", image])
            try mount()
            return
        }
        // No reserved blocks: a full disk is then full for root too.
        var limit: [FilePath] = []
        if let inodes { limit = ["-N", FilePath("\(inodes)")] }
        try command(
            ["mkfs.ext4", "-q", "-F", "-m", "0", "-b", FilePath("\(blockSize)"), "-E", "lazy_itable_init=0"] + limit
                + [image])
        try mount()
        try command(["rm", "-rf", mountPoint.appending("lost+found")])
    }

    func mount() throws {
        if isMounted { return }
        switch fileSystem {
        // No commit by time: what is on the disk is then what the program itself had flushed.
        case .ext4: try command(["mount", "-o", "loop,commit=300", image, mountPoint])
        case .exFAT:
            // The loop device goes with the mount, or at once if there is none.
            let script =
                #"d=$(losetup -f --show "$0") && { mount.exfat-fuse "$d" "$1"; s=$?; losetup -d "$d"; exit $s; }"#
            try command(["bash", "-c", FilePath(script), image, mountPoint])
        }
        isMounted = true
    }

    func unmount() throws {
        guard isMounted else { return }
        try command(["umount", mountPoint])
        isMounted = false
    }

    /// What a power cut would leave now: the blocks that reached the disk, without the page cache.
    /// The caller sees to it that nothing is written meanwhile.
    func copyBlocks() throws -> FilePath {
        let copy = image.removingLastComponent().appending("\(mountPoint.lastComponent?.string ?? "disk").cut")
        try command(["cp", "--sparse=always", "--", image, copy])
        return copy
    }

    /// Mounts another image of this disk in the place of the first.
    func exchange(for other: FilePath) throws {
        try unmount()
        image = other
        try mount()
    }

    func remount(readOnly: Bool) throws {
        try command(["mount", "-o", readOnly ? "remount,ro" : "remount,rw", mountPoint])
    }

    /// Whether this machine lets us mount one.
    static let isAvailable: Bool = {
        guard geteuid() == 0 else { return false }
        do {
            _ = try Bench().makeDisk("probe", mebibytes: 8)
            return true
        } catch {
            return false
        }
    }()

    /// Whether this machine lets us mount an exFAT.
    static let hasExFAT: Bool = {
        guard geteuid() == 0 else { return false }
        do {
            let bench = try Bench()
            let disk = try bench.makeDisk("probe", mebibytes: 8, .exFAT)
            try disk.unmount()
            return true
        } catch {
            return false
        }
    }()
}

extension Bench {
    /// Runs once until the step, and takes the power away there: what reached the disk by then is what is mounted after.
    func cutOff(_ disk: LoopDisk, at step: String) async throws {
        let program = try spawn(arguments(["--once"]), environment: ["SAFEBACKUP_FAULT": "stop=\(step)"])
        let isStopped = try await eventually { program.state == "T" || program.poll() != nil }
        try #require(isStopped && program.poll() == nil, "step \(step) was not reached:\n\(program.errorTail)")
        let left = try disk.copyBlocks()
        program.crash()
        try disk.exchange(for: left)
    }
}
