import Glibc
package import SafeBackupConfiguration
package import SafeBackupCore
import SafeBackupState
package import SafeBackupSystem
import SafeBackupWatch
import SystemPackage

/// Looks at everything that an agent needs: the machine, its state, its sources and destinations; and tries the way there
/// and back with a file. Works beside a running agent, and changes nothing. Blocks.
package struct Doctor {
    let directory: StateDirectory
    /// `nil`: nothing is configured, and only the machine is looked at.
    let settings: AgentSettings?
    let clock: WallClock
    var report = DoctorReport()
    var reader: StateReader?
    var status: StateStatus?
    private let tell: (Int) -> Void
    /// What the configuration says of a bucket that the state knows.
    let configured: ([UInt8]) -> Result<Configuration.S3?, SafeBackupError>

    /// - Parameters:
    ///   - settings: what was named or configured; `nil`: what the state knows, if there is one.
    ///   - configured: what the configuration says of the bucket at a location, where only the state named it.
    ///   - tell: called with the number of entries of the sources that were seen so far.
    package init(
        _ directory: StateDirectory, settings: AgentSettings?, clock: WallClock = .system,
        configured: @escaping ([UInt8]) -> Result<Configuration.S3?, SafeBackupError> = { _ in .success(nil) },
        tell: @escaping (Int) -> Void = { _ in }
    ) {
        self.configured = configured
        self.directory = directory
        self.settings = settings
        self.clock = clock
        self.tell = tell
    }

    /// Never fails: what cannot be looked at is a finding.
    package consuming func examine() -> DoctorReport {
        checkLibrary()
        checkClock()
        checkInstances()
        checkOpenFiles()
        openState()
        checkAgent()
        checkService()
        if let settings = settings ?? known() {
            checkPlaces(settings)
        } else {
            report.add(
                .warning, "source", "Nothing is configured that could be looked at",
                action: "safebackup init SOURCE DESTINATION")
        }
        return report
    }

    /// Looks at a bucket alone, with what of the machine it needs. Never fails.
    package consuming func examine(_ bucket: Configuration.S3) -> DoctorReport {
        checkLibrary()
        checkClock()
        checkBucket(bucket, "Destination \(printable(bucket.location))")
        return report
    }

    /// The pairs that the agent ran with last.
    private func known() -> AgentSettings? {
        guard let reader, let status else { return nil }
        do throws(SafeBackupError) {
            let settings = try AgentSettings(lastOf: directory, status, reader)
            return settings.sources.isEmpty ? nil : settings
        } catch {
            return nil  // ignored because a state that cannot be read was told already
        }
    }

    private mutating func checkPlaces(_ settings: AgentSettings) {
        let plan: DrainPlan
        do throws(SafeBackupError) {
            var local = settings
            local.destinations.removeAll { $0.s3 != nil }
            plan = try DrainPlanner(local).plan(tell: tell)
        } catch {
            report.add(.problem, "source", error.message)
            return
        }
        for (source, shown) in zip(settings.sources, plan.sources) { checkSource(source, shown) }
        checkWatches(settings, plan)
        var shown = plan.destinations.makeIterator()
        for destination in settings.destinations {
            if let bucket = destination.s3 {
                checkBucket(known: bucket, "Destination \(printable(bucket.location))")
            } else if let shown = shown.next() {
                checkDestination(destination, shown)
            }
        }
    }
}

extension AgentSettings {
    /// What an agent with this state ran with last.
    init(lastOf directory: StateDirectory, _ status: StateStatus, _ reader: StateReader) throws(SafeBackupError) {
        var (sources, indices): ([Source], [SourceID: Int]) = ([], [:])
        for source in status.sources where source.record.isActive {
            indices[source.record.id] = sources.count
            sources.append(
                Source(
                    path: FilePath(bytes: source.record.path),
                    excludes: try ExcludeRules(try reader.excludeRules(source.record.id)),
                    reconcileInterval: .seconds(86_400)))
        }
        var destinations: [Destination] = []
        for destination in status.destinations {
            let path = FilePath(bytes: destination.record.location)
            var members: [Member] = []
            for pair in status.pairs where pair.record.isActive && pair.record.destination == destination.record.id {
                guard let index = indices[pair.record.source] else { continue }
                members.append(
                    Member(
                        source: index, prefix: pair.record.prefix,
                        isSameDevice: Self.device(path).map { $0 == Self.device(sources[index].path) } ?? false))
            }
            if members.isEmpty { continue }
            destinations.append(
                Destination(
                    path: path, s3: try Self.bucket(destination.record), members: members, settle: SettlePolicy(),
                    idleTime: .seconds(10)))
        }
        self.init(sources: sources, destinations: destinations, state: directory, isOnce: true)
        awaitsNewDestinations = true
    }

    /// Where a bucket is, with nothing of how it is spoken to.
    private static func bucket(_ record: DestinationRecord) throws(SafeBackupError) -> Configuration.S3? {
        if record.kind == "local" { return nil }
        do throws(ConfigurationFault) {
            return Configuration.S3(try BucketURL.read(record.location))
        } catch {
            throw Preflight.refusal("\(printable(record.location)) \(error.message)")
        }
    }

    private static func device(_ path: FilePath) -> UInt64? {
        guard TimedLooks.shared.answers(path) else { return nil }
        do throws(Errno) {
            return try Descriptor.open(path, O_RDONLY | O_DIRECTORY).status().device
        } catch {
            return nil  // ignored because what is not there is told elsewhere
        }
    }
}
