import SafeBackupCore
import SafeBackupState
import SafeBackupSystem
import SafeBackupWatch

/// Says how a source is seen, why not better, and what a person can do about it.
struct CoverageAssessment {
    var coverage: WatchCoverage
    var type: VolumeType
    /// Between two passes of looks; `nil` before the first has ended.
    var interval: Duration?
    /// What the system's administrator has set.
    var setting: (SystemSetting) -> Int? = { $0.value }

    /// Events are not enough for any directory.
    var looksEverywhere: Bool { !type.reportsEveryChange || !coverage.isAlive }

    var result: SourceCoverage {
        let (directories, watched) = (coverage.directories, coverage.watched)
        guard let (extent, message) = shortfall else {
            return SourceCoverage(extent: .events, directories: directories, watched: watched)
        }
        return SourceCoverage(extent: extent, directories: directories, watched: watched, message: message)
    }

    private var shortfall: (SourceCoverage.Extent, String)? {
        let count = coverage.directories
        let all = "\(count == 1 ? "its directory is" : "all \(grouped(count)) directories are") looked at \(pace)"
        if !coverage.isAlive {
            return (.polled, "the kernel tells no changes of this file system (\(type.name)); \(all)")
        }
        if !type.reportsEveryChange {
            return (
                .polled,
                "of this file system (\(type.name)) the kernel may not tell what the server or other machines change; "
                    + "\(all), and what is changed on this machine is seen at once"
            )
        }
        if !coverage.hasInstance {
            let limit = hint(.instances, .namespaceInstances, atLeast: 1_024, more: 128)
            return (
                .polled,
                "the system gave no inotify instance; \(all); raise the limit (or that of open files): \(limit)"
            )
        }
        if coverage.unwatched == 0 { return nil }
        let rest =
            "watched \(grouped(coverage.watched)) of \(counted(coverage.directories, "directory", "directories")), "
            + "the rest is looked at \(pace)"
        if !coverage.isLimited { return (.partly, "\(rest), because they could not be watched; it is tried again") }
        let limit = hint(.watches, .namespaceWatches, atLeast: 524_288, more: coverage.unwatched)
        return (.partly, "\(rest), because the system allows no more watches; raise the limit: \(limit)")
    }

    private var pace: String {
        guard let seconds = interval?.components.seconds else { return "again and again" }
        return seconds % 60 == 0 ? "every \(seconds / 60) min" : "every \(seconds) s"
    }

    /// The command, with a number that leaves room to grow, and how to keep it.
    private func hint(
        _ system: SystemSetting, _ namespace: SystemSetting, atLeast least: Int, more: Int
    ) -> String {
        let current = setting(system) ?? 0
        var number = least
        while number < current + more * 2 { number *= 2 }
        var text =
            "sysctl \(system.rawValue)=\(number); to keep it, write '\(system.rawValue) = \(number)' into "
            + "/etc/sysctl.d/60-safebackup.conf"
        // Each user namespace, as containers have one, has a limit of its own beside the system's.
        if let own = setting(namespace), own < current {
            text += "; here, in a user namespace, \(namespace.rawValue) is only \(own)"
        }
        return text
    }
}

/// What a pass of looks took.
struct LookCost: Sendable, Hashable {
    /// CPU time of the looks.
    var looking = Duration.zero
    /// Time of the comparisons of what differed.
    var comparing = Duration.zero
    /// From the pass's beginning to its end.
    var elapsed = Duration.zero
}

/// How often what is not watched is looked at: every two seconds, if that takes at most 3 % of a core, a tenth of one
/// while there are changes to compare, and a quarter of the disk's (or server's) time; else as rarely as that asks for.
/// Pure.
struct LookPace: Sendable, Hashable {
    /// In seconds, few and far between, so that what `status` says does not change with each pass.
    private static let steps = [2, 3, 5, 10, 15, 20, 30, 60, 120, 300, 600, 1_800, 3_600]

    private(set) var interval = Duration.seconds(2)

    mutating func noteEnd(_ cost: LookCost) {
        let need = max(cost.looking * 33 + cost.comparing * 10, cost.elapsed * 4)
        let step = Self.steps.first { need <= .seconds($0) } ?? Self.steps[Self.steps.count - 1]
        interval = .seconds(step)
    }
}
