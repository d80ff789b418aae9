import CSafeBackupLinux

/// Whether the system's clock is kept in step with another.
package enum ClockDiscipline {
    /// `nil` where the kernel does not tell. The corresponding C function is `adjtimex`.
    package static var isSynchronised: Bool? {
        switch sb_clock_is_synchronised() {
        case 0: false
        case 1: true
        default: nil
        }
    }
}
