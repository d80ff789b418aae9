package import Logging

/// What a line of the log is about: the stable name that `--log-format json` gives as `event`, for filters and alerts.
/// Sentences may be worded anew, these names stay. safebackup-agent(8) lists each of them with its comment here.
package enum EventID: String, CaseIterable, Sendable {
    // The agent.
    /// The state directory or the destination lies in the source and is left out.
    case leftOut
    /// A line of an exclude file can never match.
    case ruleIdle
    /// A part of the agent stands still; the service manager hears nothing and will start it anew.
    case stalled
    /// The service manager cannot be told how the agent is.
    case managerUnreachable
    /// The start does not go on, because a disk or a server does not answer.
    case startWaits
    /// A verb's request was answered.
    case requestAnswered
    /// The configuration was read again, and what changed in it holds from now on.
    case configurationChanged
    /// The configuration that was read again has mistakes, or cannot be used; the agent goes on with the one it had.
    case configurationRefused
    /// SIGHUP came to an agent without a configuration, which goes on.
    case hangUpIgnored

    /// Whoever reads the log did not keep up; so many lines are missing here.
    case logDropped

    // A bucket.
    /// Its server wants something else than was configured or usual: a region, a time, no checksums.
    case bucketNotice
    /// Its keys may store objects and not read them; saving works without what needs reading.
    case bucketBlind

    // The state.
    /// The state cannot be written now; saving goes on when it can.
    case stateFailed
    /// The state turned out to be damaged while it was in use.
    case stateDamaged
    /// The damaged state was moved aside and is rebuilt.
    case stateRebuilt
    /// The state was not closed cleanly.
    case stateNotClosed
    /// An event could not be written to the state's journal.
    case journalFailed

    // The source.
    /// The source's watches are in place.
    case watching
    /// The watches were placed again.
    case watchesPlaced
    /// Not all changes are told by events; the rest is looked at again and again.
    case coverageLimited
    /// All changes are told by events again.
    case coverageComplete
    /// Events were lost; the source is compared with the catalogue.
    case desynced
    /// The source was compared with the catalogue.
    case reconciled
    /// A walk found changes that no event had told of.
    case drift
    /// A directory cannot be read.
    case directoryUnreadable
    /// Something was mounted or unmounted below the source.
    case mountsChanged
    /// The root changed and is still the same directory.
    case rootChanged
    /// The source lost its last file; every copy is kept.
    case emptied
    /// No thread of low priority for the periodic walk, which is done as any other.
    case walkUnlowered
    /// The source cannot be watched now; it is tried again.
    case sourceFailed

    // Source or destination.
    /// A source or destination is held; its jobs wait.
    case held
    /// It is not held any more.
    case released

    // The destination.
    /// The destination is new, or holds files that are taken over.
    case destinationBegun
    /// The destination is known to an earlier state of this machine.
    case destinationKnown
    /// Source and destination lie on the same file system.
    case sameFileSystem
    /// The destination failed; it is tried again.
    case destinationFailed
    /// There is more room in a destination that was full.
    case roomFound
    /// Unfinished work of an earlier run was ended or undone.
    case recovered
    /// All stored copies were looked for, and nobody else had deleted or changed one.
    case copiesChecked
    /// Stored copies were deleted or changed by somebody else.
    case copiesChanged
    /// Copies of deleted files became versions, because the destination mirrors deletions.
    case retired
    /// The destination's catalogue was read.
    case catalogueRead
    /// No finished catalogue is at the destination.
    case catalogueMissing
    /// A catalogue copy is not usable.
    case catalogueUnusable
    /// The catalogue copy was written.
    case catalogueWritten
    /// The catalogue copy was not written; it is tried again.
    case catalogueFailed
    /// There is too little room in the destination, or the backup is too large; what may go is being removed.
    case cleaning
    /// A cleaning has ended.
    case cleaned
    /// Something else than the backup fills the destination's disk.
    case spaceTaken
    /// The limits of the configuration cannot be kept on this disk.
    case limitsUnusable
    /// The configured policy was applied.
    case pruned

    // Jobs.
    /// A path will be tried again.
    case willRetry
    /// A path cannot be saved; it is stuck.
    case stuck
}

extension Logger {
    /// The key of `EventID` in a line's metadata.
    package static let eventKey = "event"

    package func debug(
        _ event: EventID, _ message: @autoclosure () -> Message, metadata: @autoclosure () -> Metadata = [:]
    ) { log(event, level: .debug, message(), metadata: metadata()) }

    package func info(
        _ event: EventID, _ message: @autoclosure () -> Message, metadata: @autoclosure () -> Metadata = [:]
    ) { log(event, level: .info, message(), metadata: metadata()) }

    package func notice(
        _ event: EventID, _ message: @autoclosure () -> Message, metadata: @autoclosure () -> Metadata = [:]
    ) { log(event, level: .notice, message(), metadata: metadata()) }

    package func warning(
        _ event: EventID, _ message: @autoclosure () -> Message, metadata: @autoclosure () -> Metadata = [:]
    ) { log(event, level: .warning, message(), metadata: metadata()) }

    package func error(
        _ event: EventID, _ message: @autoclosure () -> Message, metadata: @autoclosure () -> Metadata = [:]
    ) { log(event, level: .error, message(), metadata: metadata()) }

    package func log(
        _ event: EventID, level: Level, _ message: @autoclosure () -> Message,
        metadata: @autoclosure () -> Metadata = [:]
    ) {
        // A closure, so that nothing is put together for a line that is not wanted.
        log(level: level, message(), metadata: metadata().merging([Self.eventKey: "\(event.rawValue)"]) { $1 })
    }
}
