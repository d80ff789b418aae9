import CSafeBackupLinux

/// What the process keeps in memory.
package enum ProcessMemory {
    /// Few heaps, and large blocks outside of them, so that what a walk or a save needed can be given back: a heap a
    /// thread keeps what lies between two blocks in use. Called once, first. The corresponding C function is `mallopt`.
    package static func configure() { sb_configure_heap() }

    /// For a time of rest: gives free heap pages back to the system, and unmaps the program's code, most of which served
    /// the start; what is still needed is mapped again, from the page cache, at its next use. Takes some milliseconds.
    /// The corresponding C functions are `malloc_trim` and `madvise`.
    package static func giveBack() {
        sb_trim_heap()
        sb_unmap_code()
    }
}
