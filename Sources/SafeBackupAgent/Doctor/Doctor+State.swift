import Glibc
import SafeBackupCore
import SafeBackupState
import SafeBackupSystem
import SystemPackage

/// The agent's state, and the agent.
extension Doctor {
    private var name: String { printable(directory.path.bytes) }

    mutating func openState() {
        guard directory.hasState else {
            report.add(
                .ok, "state", "There is none yet; the first run begins it", subject: "State \(name)")
            return
        }
        do throws(SafeBackupError) {
            let reader = try StateReader(in: directory.path)
            try reader.check()
            status = try reader.status()
            self.reader = reader
            report.add(.ok, "state", "The database is sound", subject: "State \(name)")
        } catch {
            let isDamaged = error.code == .stateDamaged
            report.add(
                .problem, "state", error.message, subject: "State \(name)",
                action: isDamaged
                    ? "restart the agent: it moves the file aside, and rebuilds it from the backup's catalogue and a walk"
                    : error.systemError == Errno.permissionDenied.rawValue
                        ? "run it as the agent's user, or as root" : nil)
        }
        checkStatePlace()
        checkTimes()
    }

    private mutating func checkStatePlace() {
        let statistics: VolumeStatistics
        do throws(Errno) {
            statistics = try VolumeStatistics(Descriptor.open(directory.path, O_RDONLY | O_DIRECTORY))
        } catch {
            return  // told by whoever reads it
        }
        let type = statistics.type
        let subject = "State \(name)"
        if [.nfs, .smb, .cifs, .smb2, .plan9, .ceph, .afs, .fuse].contains(type) {
            report.add(
                .problem, "state",
                "It lies on a file system (\(type.name)) whose locks and memory maps cannot be relied on, and may be damaged",
                subject: subject,
                action: "give a directory of a local disk with --state DIR, or 'state =' in agent.conf")
        } else if type == .tmpfs {
            report.add(
                .warning, "state",
                "It lies in memory (tmpfs) and is lost at each reboot; it is rebuilt from the backup then, which takes time",
                subject: subject, action: "give a directory of a disk with --state DIR, or 'state =' in agent.conf")
        }
        if statistics.available < .mebibytes(64) {
            report.add(
                .problem, "state",
                "Only \(statistics.available) are free where it lies; when nothing is, nothing is saved",
                subject: subject, action: "make room in \(name)")
        }
    }

    /// Times in the state that are to come.
    private mutating func checkTimes() {
        do throws(SafeBackupError) {
            guard let last = try reader?.lastSignOfLife(), last - clock.now > .seconds(86_400) else { return }
            report.add(
                .problem, "clock",
                "The agent's last sign of life is of \(last.iso8601), which is to come: the clock is wrong now, or was then",
                subject: "State \(name)", action: "timedatectl status")
        } catch {
            report.add(.problem, "state", error.message, subject: "State \(name)")
        }
    }

    mutating func checkAgent() {
        guard let status else { return }
        let subject = "State \(name)"
        let holder = directory.holder()
        if holder.isHeld {
            report.add(
                .ok, "agent", "It runs" + (holder.process.map { ", as process \($0)" } ?? ""), subject: subject)
        } else if status.sources.contains(where: \.record.isActive) {
            report.add(
                .warning, "agent", "None runs with this state: changes are saved by its next start", subject: subject,
                action: "safebackup run --config FILE   (or: systemctl start safebackup)")
        }
        for source in status.sources where source.record.isActive {
            judge(source.record.hold, source.record.pausedAt, printable(source.record.path), subject)
        }
        for destination in status.destinations {
            let pairs = status.pairs.filter { $0.record.destination == destination.record.id && $0.record.isActive }
            if pairs.isEmpty { continue }
            let place = printable(destination.record.location)
            judge(destination.record.hold, destination.record.pausedAt, place, subject)
            if destination.counts.stuck > 0 {
                report.add(
                    .problem, "queue", "\(grouped(destination.counts.stuck)) stuck on the way to \(place)",
                    subject: subject, action: "safebackup status   (why), safebackup retry   (after that is mended)")
            }
            if let full = destination.waitingForRoom {
                report.add(
                    .problem, "queue", "\(counted(full.jobs, "change waits", "changes wait")) for room in \(place)",
                    subject: subject, action: "make room there, as with 'safebackup prune'")
            }
        }
    }

    private mutating func judge(_ hold: Hold?, _ pausedAt: Timestamp?, _ name: String, _ subject: String) {
        if let hold {
            report.add(
                .problem, "queue", "\(name) is held since \(hold.at.iso8601): \(hold.message)", subject: subject,
                action: "safebackup status")
        }
        if let pausedAt {
            report.add(
                .warning, "queue", "\(name) is paused since \(pausedAt.iso8601)", subject: subject,
                action: "safebackup resume \(name)")
        }
    }

    mutating func checkService() {
        guard ServiceUnit.isInstalled, ServiceUnit.isManagerRunning, directory.path == ServiceUnit.state else { return }
        let subject = "State \(name)"
        let service: ServiceUnit.Status
        do throws(SafeBackupError) {
            service = try ServiceUnit.status()
        } catch {
            report.add(.warning, "service", error.message, subject: subject)
            return
        }
        if service.isFailed {
            report.add(
                .problem, "service", "safebackup.service has failed (\(service.result))", subject: subject,
                action: "journalctl -u safebackup -e   (why), systemctl restart safebackup")
        } else if !service.isActive {
            report.add(
                .warning, "service", "safebackup.service does not run", subject: subject,
                action: "systemctl enable --now safebackup")
        } else if !service.isEnabled {
            report.add(
                .warning, "service", "safebackup.service runs, and will not after a reboot", subject: subject,
                action: "systemctl enable safebackup")
        } else {
            report.add(.ok, "service", "safebackup.service runs, and does so after each boot", subject: subject)
        }
    }
}
