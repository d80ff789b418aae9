package import SystemPackage

import Glibc

/// Runs one system call: asks the fault seam, retries EINTR, and turns -1 into the thrown errno.
/// The only place that reads errno.
@inline(__always)
@discardableResult
package func systemCall<R: BinaryInteger>(_ name: StaticString, _ body: () -> R) throws(Errno) -> R {
    while true {
        if let fault = Faults.next(name) {
            if fault == .interrupted { continue }
            throw fault
        }
        let result = body()
        if result != -1 { return result }
        let error = Errno(rawValue: errno)
        if error != .interrupted { throw error }
    }
}

/// As `systemCall`, but the fault seam neither sees nor fails it: for the log, which is no part of what a test disturbs.
@inline(__always)
@discardableResult
func undisturbedSystemCall<R: BinaryInteger>(_ body: () -> R) throws(Errno) -> R {
    while true {
        let result = body()
        if result != -1 { return result }
        let error = Errno(rawValue: errno)
        if error != .interrupted { throw error }
    }
}

/// Calls `body` with `bytes` as a C string. The bytes hold no NUL, as those of a path never do.
@inline(__always)
package func withCString<R>(_ bytes: [UInt8], _ body: (UnsafePointer<CChar>) -> R) -> R {
    withUnsafeTemporaryAllocation(of: CChar.self, capacity: bytes.count + 1) { buffer in
        for index in bytes.indices { buffer[index] = CChar(bitPattern: bytes[index]) }
        buffer[bytes.count] = 0
        guard let start = buffer.baseAddress else { preconditionFailure("a buffer of at least one byte has a start") }
        return body(UnsafePointer(start))
    }
}

extension Errno {
    /// The system's sentence for people, with the number's name where it is common.
    package var explanation: String { description }
}
