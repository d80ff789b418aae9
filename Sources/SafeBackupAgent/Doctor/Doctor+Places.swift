import Glibc
import SafeBackupCapacity
import SafeBackupCore
import SafeBackupLocal
import SafeBackupState
import SafeBackupSystem
import SystemPackage

/// One source, one destination.
extension Doctor {
    mutating func checkSource(_ source: AgentSettings.Source, _ shown: DrainPlan.Source) {
        let subject = "Source \(shown.path)"
        if let held = shown.held {
            report.add(.problem, "source", held, subject: subject, action: "safebackup status")
            return
        }
        report.add(
            .ok, "source",
            "\(counted(shown.files, "file")) (\(ByteCount(shown.bytes))), "
                + counted(shown.directories, "directory", "directories"), subject: subject)
        if let type = Self.type(source.path) {
            if type.reportsEveryChange {
                report.add(.ok, "source", "Its file system (\(type.name)) tells of every change", subject: subject)
            } else {
                report.add(
                    .warning, "source",
                    "Of its file system (\(type.name)) the kernel may not tell what others change: it is looked at again and "
                        + "again", subject: subject)
            }
        }
        for skip in shown.skipped where skip.isMissing {
            let isUnreadable = skip.reason == "unreadable"
            let names = skip.paths.prefix(5).joined(separator: ", ")
            report.add(
                .problem, isUnreadable ? "permissions" : "source",
                "\(counted(skip.count, "entry", "entries")) not saved, as each \(skip.explanation): \(names)"
                    + (skip.count > 5 ? ", …" : ""), subject: subject,
                action: isUnreadable ? readingAction(source) : nil)
        }
        if !shown.skipped.contains(where: { $0.reason == "unreadable" }) {
            report.add(.ok, "permissions", "This user may read all of it", subject: subject)
        }
    }

    private func readingAction(_ source: AgentSettings.Source) -> String {
        let path = printable(source.path.bytes)
        if ServiceUnit.isInstalled {
            return
                "run it as the service, which may read everything (CAP_DAC_READ_SEARCH): sudo safebackup init \(path) "
                + "DESTINATION"
        }
        return "run it as root, as a service with AmbientCapabilities=CAP_DAC_READ_SEARCH, or: sudo setfacl -R -m "
            + "u:\"$USER\":rX \(path)"
    }

    mutating func checkDestination(_ destination: AgentSettings.Destination, _ shown: DrainPlan.Destination) {
        let subject = "Destination \(shown.path)"
        if let held = shown.held {
            report.add(.problem, "destination", held, subject: subject)
            return
        }
        checkFileSystem(destination, subject)
        checkSpace(destination, shown, subject)
        let inspection: LocalDestination.Inspection
        do throws(SafeBackupError) {
            inspection = try LocalDestination.inspect(destination.path)
        } catch {
            report.add(.problem, "destination", error.message, subject: subject)
            return
        }
        guard let sentinel = inspection.sentinel else {
            report.add(
                .ok, "destination",
                "It is no destination yet, and may become one: the first run \(inspection.exists ? "begins" : "makes") it",
                subject: subject)
            return
        }
        if !sentinel.capabilities.hardLinks {
            report.add(
                .warning, "destination",
                "It has no hard links: what is renamed is stored again, and while a file is replaced its older copy lies "
                    + "among the versions only", subject: subject)
        }
        checkOwner(destination, subject)
        let record = status?.destinations.first { $0.record.location == destination.path.bytes }?.record
        // What is paused is not touched; that it is was told.
        if record?.pausedAt != nil { return }
        tryStoring(destination, subject)
        guard let record else { return }
        checkCatalogue(record, subject)
        tryRestoring(record, subject)
    }

    private mutating func checkFileSystem(_ destination: AgentSettings.Destination, _ subject: String) {
        for member in destination.members where member.isSameDevice {
            report.add(
                .warning, "destination", "It shares a file system with a source: one failing disk takes both",
                subject: subject, action: "take a destination on another disk")
            break
        }
        let path = Self.type(destination.path) == nil ? destination.path.removingLastComponent() : destination.path
        guard let type = Self.type(path) else { return }
        if type == .tmpfs {
            report.add(
                .problem, "destination", "It lies in memory (tmpfs): the backup is lost at the next reboot",
                subject: subject, action: "take a destination on a disk")
        } else if [.nfs, .smb, .cifs, .smb2, .plan9, .ceph, .afs, .fuse].contains(type) {
            report.add(
                .warning, "destination",
                "What is saved there is as safe as the server makes it (\(type.name)): a flush is its promise, not this "
                    + "machine's", subject: subject)
        } else if !type.honoursSyncFileSystem {
            report.add(
                .ok, "destination", "On \(type.name) each file is flushed by itself: slower, and as safe",
                subject: subject)
        } else {
            report.add(
                .ok, "destination", "Its file system (\(type.name)) flushes many files at once", subject: subject)
        }
    }

    private mutating func checkSpace(
        _ destination: AgentSettings.Destination, _ shown: DrainPlan.Destination, _ subject: String
    ) {
        guard let available = shown.availableBytes, let total = shown.totalBytes, let fits = shown.fits else { return }
        let free = "\(ByteCount(available)) of \(ByteCount(total)) are free"
        if !fits {
            report.add(
                .problem, "space", "\(free), and what is to be saved takes \(ByteCount(shown.neededBytes))",
                subject: subject, action: "make room there, leave something out (--exclude), or take a larger disk")
            return
        }
        do throws(SafeBackupError) {
            let limits = try destination.room.limits(disk: ByteCount(total))
            if available < limits.threshold.bytes {
                report.add(
                    .warning, "space", "\(free), which is less than \(limits.threshold): it fills up", subject: subject,
                    action: "make room there, as with 'safebackup prune --keep-last 5'")
            } else {
                report.add(.ok, "space", "\(free), \(ByteCount(shown.neededBytes)) are needed now", subject: subject)
            }
        } catch {
            report.add(.ok, "space", free, subject: subject)
        }
    }

    /// The service has a user of its own, and what root made is closed to it.
    private mutating func checkOwner(_ destination: AgentSettings.Destination, _ subject: String) {
        guard ServiceUnit.isInstalled, directory.path == ServiceUnit.state, let user = ServiceUnit.user else { return }
        let path = printable(destination.path.bytes)
        do throws(Errno) {
            let status = try Descriptor.open(destination.path, O_RDONLY | O_DIRECTORY).status()
            if status.uid == user.uid { return }
        } catch {
            return  // told by whoever opens it
        }
        report.add(
            .problem, "permissions",
            "It does not belong to the user of the service (\(ServiceUnit.userName)), which cannot "
                + "write there", subject: subject, action: "sudo chown -R \(ServiceUnit.userName): \(path)")
    }

    private mutating func tryStoring(_ destination: AgentSettings.Destination, _ subject: String) {
        do throws(SafeBackupError) {
            let time = try DestinationTrial.run(at: destination.path)
            report.add(
                .ok, "probe",
                "1 MiB was stored, flushed, renamed, read back and removed in \(secondsText(time)) s", subject: subject)
        } catch {
            let isForbidden = error.code == .destinationForbidden
            report.add(
                .problem, "probe", error.message, subject: subject,
                action: isForbidden ? "run this as the agent's user, or as root" : nil)
        }
    }

    private mutating func checkCatalogue(_ record: DestinationRecord, _ subject: String) {
        do throws(SafeBackupError) {
            let behind = try reader?.beganAfterCatalogueCopy(record)
            if let behind, clock.now - behind > .seconds(2 * 86_400) {
                let copied = record.catalogueExportedAt?.iso8601 ?? "never"
                report.add(
                    .warning, "catalogue",
                    "The catalogue's copy beside the backup is of \(copied): a machine without the state would not know the "
                        + "history since", subject: subject,
                    action: "start the agent, and leave it running for a minute")
            } else if let exported = record.catalogueExportedAt {
                report.add(.ok, "catalogue", "Its copy there is of \(exported.iso8601)", subject: subject)
            } else {
                report.add(
                    .ok, "catalogue", "No copy of it is there yet; it is made soon after the first save",
                    subject: subject)
            }
        } catch {
            report.add(.problem, "state", error.message, subject: subject)
        }
    }

    private mutating func tryRestoring(_ record: DestinationRecord, _ subject: String) {
        guard let reader else { return }
        do throws(SafeBackupError) {
            guard let result = try RestoreTrial(reader, record).run(comparesSource: false) else {
                report.add(
                    .ok, "restore",
                    "There is no file that could be restored for a trial: none yet, or none below 1 GiB",
                    subject: subject)
                return
            }
            let what = "\(result.path) (\(ByteCount(result.size)))"
            if result.differences.isEmpty {
                report.add(
                    .ok, "restore", "\(what) was restored, with the content that was saved", subject: subject)
            } else {
                report.add(
                    .problem, "restore", "\(what) was restored, and \(result.differences.joined(separator: "; "))",
                    subject: subject, action: "safebackup verify")
            }
        } catch {
            report.add(.problem, "restore", error.message, subject: subject)
        }
    }
}
