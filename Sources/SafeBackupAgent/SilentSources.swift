import Logging
import SafeBackupCore
import SafeBackupLocal
import SafeBackupState
import SafeBackupSystem
import SystemPackage

/// Sources that were never saved and whose file systems do not answer. Nobody knows yet what the directory is, so that the
/// state can have no row for them: the others are saved without them, until they answer.
struct SilentSources: Sendable {
    /// One reason for each.
    private(set) var reasons: [SafeBackupError] = []
    private var paths: [FilePath] = []

    /// Takes them out of the settings.
    /// - Throws: `notAnswering` if no other source is left.
    static func leave(
        outOf settings: inout AgentSettings, _ state: StateAccess, _ io: ThreadExecutor
    ) async throws(SafeBackupError) -> SilentSources {
        let known = try await state.durably { (store) throws(SafeBackupError) in try store.sources().map(\.path) }
        let asked = settings.sources.map(\.path)
        let places = settings.destinations.map(\.path)
        let silent = try await io.run { () throws(SafeBackupError) -> Set<Int> in
            let new = asked.indices.filter { !known.contains(asked[$0].bytes) }
            TimedLooks.shared.begin(new.map { asked[$0] })
            let silent = new.filter { !TimedLooks.shared.answers(asked[$0]) }
            if silent.isEmpty { return [] }
            // A destination may know it from an earlier state.
            let listed = PairSetup.sourcesWithIdentity(
                listedAt: places, machine: try StateDirectory.machineIdentifier())
            return Set(silent.filter { !listed.contains(asked[$0].bytes) })
        }
        var sources = SilentSources()
        for index in silent.sorted() {
            sources.paths.append(asked[index])
            sources.reasons.append(
                .notAnswering("The source \(printable(asked[index].bytes))", disposition: .transient))
        }
        if let first = sources.reasons.first, silent.count == asked.count { throw first }
        settings.drop(silent)
        return sources
    }

    /// Returns `true` as soon as one of them answers, `false` when the stop was requested.
    func wait(until stop: StopSignal, _ io: ThreadExecutor) async -> Bool {
        let signal = TaskSignal()
        stop.onRequest { signal.signal() }
        while !stop.isRequested {
            let paths = paths
            if await io.run({ paths.contains { TimedLooks.shared.answers($0) } }) { return true }
            await signal.wait(atMost: .seconds(2))
        }
        return false
    }
}

extension AgentSettings {
    /// Without these sources, and without the destinations that are nobody else's.
    mutating func drop(_ dropped: Set<Int>) {
        if dropped.isEmpty { return }
        var numbers: [Int: Int] = [:]
        for index in sources.indices where !dropped.contains(index) { numbers[index] = numbers.count }
        sources = sources.indices.filter { !dropped.contains($0) }.map { sources[$0] }
        for index in destinations.indices {
            destinations[index].members = destinations[index].members.compactMap { member in
                numbers[member.source].map { number in
                    var member = member
                    member.source = number
                    return member
                }
            }
        }
        destinations.removeAll(where: \.members.isEmpty)
    }
}

extension PairSetup {
    /// The paths of the machine's sources that destinations list with what their roots were. Blocks.
    static func sourcesWithIdentity(listedAt places: [FilePath], machine: String) -> Set<[UInt8]> {
        Set(
            places.flatMap { listedSources(at: $0) }.filter { $0.machine == machine && $0.identity != nil }.map(\.path))
    }
}
