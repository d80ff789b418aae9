import Glibc

/// Whether the system's journal reads what is written. See: man 5 systemd.exec, `JOURNAL_STREAM`.
package enum JournalStream {
    /// Standard error is the journal's stream, and not what somebody put in its place.
    package static var isStandardError: Bool {
        guard let announced = getenv("JOURNAL_STREAM") else { return false }
        return matches(String(cString: announced), descriptor: 2)
    }

    /// - Parameter announced: device and inode of the stream, as `8:123`.
    package static func matches(_ announced: String, descriptor: Int32) -> Bool {
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { return false }
        return announced == "\(status.st_dev):\(status.st_ino)"
    }
}
