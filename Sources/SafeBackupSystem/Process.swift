import CSafeBackupLinux

/// What concerns the whole process.
package enum Process {
    /// SIGPIPE and SIGIO do nothing; their default ends the process. Called once, first.
    package static func ignoreHarmfulSignals() { sb_ignore_harmful_signals() }
}
