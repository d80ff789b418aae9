package import SafeBackupConfiguration
import SafeBackupCore
import SafeBackupLocal
import SafeBackupState
import SafeBackupSystem
import SystemPackage

#if canImport(Glibc)
    import Glibc
#endif

/// What an agent's start, or SIGHUP, would refuse besides what a configuration says by itself.
extension AgentSettings {
    /// What the state says: nothing where there is none, `nil` where there is one that may not be read.
    fileprivate struct Known {
        var sources: [SourceRecord] = []
        var destinations: [DestinationRecord] = []
        /// Under which a source's copies lie in a destination.
        var prefixes: [(source: [UInt8], destination: [UInt8], prefix: RelativePath)] = []

        init?(_ state: StateDirectory) {
            guard state.hasState else { return }
            do throws(SafeBackupError) {
                let reader = try StateReader(in: state.path)
                sources = try reader.sources()
                destinations = try reader.destinations()
                for pair in try reader.pairs() where try reader.firstSave(pair.source, pair.destination) != nil {
                    guard let source = sources.first(where: { $0.id == pair.source }),
                        let destination = destinations.first(where: { $0.id == pair.destination })
                    else { continue }
                    prefixes.append((source.path, destination.location, pair.prefix))
                }
            } catch {
                return nil  // what needs the state is told by the start then
            }
        }
    }

    /// Looks into the state and the destinations, as far as this user may, and writes nothing: a source that is not there
    /// and was never saved, another prefix than copies lie under, and a destination that is somebody else's.
    /// - Parameter configuration: the one that these settings are of.
    package func refusals(_ configuration: Configuration) -> [ConfigurationProblem] {
        let known = Known(state)
        var problems: [ConfigurationProblem] = []
        var listed: [SentinelSource] = []
        let machine: String
        do throws(SafeBackupError) {
            machine = try StateDirectory.machineIdentifier()
        } catch {
            return []  // the start tells why
        }
        for (index, destination) in destinations.enumerated() {
            // Nobody asks a server before it is started.
            if destination.s3 != nil { continue }
            let sentinel = Self.sentinel(at: destination.path)
            listed += sentinel?.sources.filter { $0.machine == machine } ?? []
            let entries = destination.members.map { member in
                SentinelSource(
                    id: "", machine: machine, path: sources[member.source].path.bytes, identity: nil,
                    prefix: member.prefix)
            }
            let place = configuration.destinations[index].place
            do throws(SafeBackupError) {
                if let sentinel {
                    let new = try PairSetup.unlisted(entries, in: sentinel.sources, at: destination.location)
                    let isKnown = known?.destinations.contains { $0.sentinel == sentinel.id } ?? true
                    if !isKnown, new.count == entries.count, let other = sentinel.sources.first {
                        throw PairSetup.taken(by: other, entries, at: destination.location)
                    }
                } else if let wrong = known?.wrongPrefix(of: entries, at: destination.path) {
                    throw wrong
                }
            } catch {
                problems.append(ConfigurationProblem(place, error.message))
            }
        }
        guard let known else { return problems }
        for (index, source) in sources.enumerated() {
            let path = source.path.bytes
            if known.sources.contains(where: { $0.path == path }) { continue }
            if listed.contains(where: { $0.path == path && $0.identity != nil }) || Self.isThere(source.path) {
                continue
            }
            problems.append(
                ConfigurationProblem(
                    configuration.sources[index].place,
                    "path: \(printable(path)) is not there, and was never saved; check the path, or mount its disk"))
        }
        return problems
    }

    /// `nil`: there is none, or nobody can tell now.
    private static func sentinel(at path: FilePath) -> Sentinel? {
        do throws(SafeBackupError) {
            return try LocalDestination.inspect(path).sentinel
        } catch {
            return nil  // it is away, or held for a reason that the agent tells
        }
    }

    /// Also of one that does not answer: nobody can tell now.
    private static func isThere(_ path: FilePath) -> Bool {
        guard TimedLooks.shared.answers(path) else { return true }
        do throws(Errno) {
            _ = try Descriptor.open(path, O_RDONLY | O_DIRECTORY)
            return true
        } catch {
            return error != .noSuchFileOrDirectory
        }
    }
}

extension AgentSettings.Known {
    /// Of a destination that is away: another prefix than copies lie under.
    fileprivate func wrongPrefix(of entries: [SentinelSource], at path: FilePath) -> SafeBackupError? {
        for entry in entries {
            let pair = prefixes.first { $0.source == entry.path && $0.destination == path.bytes }
            guard let pair, pair.prefix != entry.prefix else { continue }
            return SafeBackupError(
                .invalidConfiguration,
                "prefix: \(printable(entry.path)) was saved here under the prefix \(pair.prefix), not \(entry.prefix); give "
                    + "the one it has, or another destination for it", disposition: .permanent)
        }
        return nil
    }
}
