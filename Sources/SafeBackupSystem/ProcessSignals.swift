import CSafeBackupLinux

/// Signals of the whole process.
package enum ProcessSignals {
    /// SIGPIPE and SIGIO do nothing; their default ends the process. Called once, first.
    package static func ignoreHarmful() { sb_ignore_harmful_signals() }
}
