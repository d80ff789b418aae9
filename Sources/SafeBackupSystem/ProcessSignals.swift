import CSafeBackupLinux

/// Signals of the whole process.
package enum ProcessSignals {
    /// SIGPIPE and SIGIO do nothing; their default ends the process. Called once, first.
    package static func ignoreHarmful() { sb_ignore_harmful_signals() }
}

/// Gives free heap pages back to the system; takes some milliseconds. The corresponding C function is `malloc_trim`.
package func trimMemory() { sb_trim_memory() }
