import Glibc
import SafeBackupCore
import SafeBackupState
import SafeBackupSystem
import SafeBackupWatch
import SystemPackage

/// What all agents of the machine need.
extension Doctor {
    mutating func checkLibrary() {
        do throws(SafeBackupError) {
            try SHA256.requireAvailable()
            report.add(.ok, "library", "OpenSSL gives SHA-256")
        } catch {
            report.add(.problem, "library", error.message)
        }
    }

    mutating func checkClock() {
        let now = clock.now
        let year = now.utc.year
        let action = "timedatectl set-ntp true   (or set it with: date -s)"
        if !(2026...2100).contains(year) {
            report.add(
                .problem, "clock",
                "The clock says \(now.iso8601): versions would carry that time in their names, and restore --at would look "
                    + "for them there", action: action)
        } else if ClockDiscipline.isSynchronised == false {
            report.add(
                .warning, "clock",
                "The clock says \(now.iso8601), and the kernel says that nothing keeps it right; nothing is lost by a wrong "
                    + "clock, but versions carry its time", action: action)
        } else {
            report.add(.ok, "clock", "It says \(now.iso8601)")
        }
    }

    mutating func checkInstances() {
        do throws(SafeBackupError) {
            try Watcher.checkInstance()
            report.add(.ok, "instances", "The system gives an inotify instance")
        } catch {
            report.add(
                .warning, "instances",
                "\(error.message); without one, changes are found by looking again and again, later and at more cost",
                action: "sysctl \(SystemSetting.instances.rawValue)=1024   (and \(Self.keeping(.instances, 1_024)))")
        }
    }

    /// Whether all directories could be watched; what other programs of the same user watch is not known.
    mutating func checkWatches(_ settings: AgentSettings, _ plan: DrainPlan) {
        let types = settings.sources.map { Self.type($0.path) }
        let directories = zip(types, plan.sources).reduce(0) { sum, pair in
            sum + (pair.0?.reportsEveryChange == false ? 0 : pair.1.directories)
        }
        let limits = [SystemSetting.watches, .namespaceWatches].compactMap { setting in
            setting.value.map { (setting, $0) }
        }
        guard let (setting, limit) = limits.min(by: { $0.1 < $1.1 }) else { return }
        let need = "\(counted(directories, "directory is", "directories are")) to be watched"
        var number = 524_288
        while number < directories * 2 { number *= 2 }
        let action = "sysctl \(setting.rawValue)=\(number)   (and \(Self.keeping(setting, number)))"
        if directories > limit {
            report.add(
                .warning, "watches",
                "\(need), and \(setting.rawValue) allows \(grouped(limit)): the rest is looked at again and again, later and "
                    + "at more cost", action: action)
        } else if directories > limit / 10 * 8 {
            report.add(
                .warning, "watches",
                "\(need), and \(setting.rawValue) allows \(grouped(limit)) for all programs of this user: what is over "
                    + "that is looked at again and again", action: action)
        } else {
            report.add(.ok, "watches", "\(need), \(grouped(limit)) may be")
        }
    }

    private static func keeping(_ setting: SystemSetting, _ number: Int) -> String {
        "to keep it: echo \(setting.rawValue)=\(number) >/etc/sysctl.d/60-safebackup.conf"
    }

    mutating func checkOpenFiles() {
        var limit = rlimit()
        guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return }
        // Each thread that copies has some open, and so has each directory on the way down.
        let need = 256
        if limit.rlim_cur < need {
            report.add(
                .problem, "openFiles", "This user may have \(limit.rlim_cur) files open; \(need) are needed",
                action: "ulimit -n 1024   (for a service: LimitNOFILE=1024)")
        } else {
            report.add(.ok, "openFiles", "\(limit.rlim_cur) files may be open")
        }
    }

    static func type(_ path: FilePath) -> VolumeType? {
        guard TimedLooks.shared.answers(path) else { return nil }
        do throws(Errno) {
            return try VolumeStatistics(Descriptor.open(path, O_RDONLY | O_DIRECTORY)).type
        } catch {
            return nil  // ignored because what cannot be opened is told elsewhere
        }
    }
}
