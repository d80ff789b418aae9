import Glibc

/// Descriptors 0, 1 and 2.
package enum StandardStreams {
    /// Opens `/dev/null` under each of the three that whoever started the process has closed. Else the next file that is
    /// opened, perhaps a copy in the backup, would have that number, and be written to as if it were the log. To be called
    /// before anything is opened.
    package static func fillGaps() {
        for number in Int32(0)...2 where fcntl(number, F_GETFD) == -1 && errno == EBADF {
            // The lowest number that is free, which is this one. Ignored if it fails: there may be no /dev.
            _ = open("/dev/null", number == 0 ? O_RDONLY : O_WRONLY)
        }
    }
}
