/// Memory for one part of an upload: filled once, by the thread that reads and hashes, then only read.
package final class PartBuffer: @unchecked Sendable {
    // Written only through `fill`, before the buffer is handed on.
    private let memory: UnsafeMutableRawBufferPointer
    package private(set) var count = 0

    package init(capacity: Int) {
        memory = .allocate(byteCount: max(1, capacity), alignment: 4_096)
    }

    deinit { memory.deallocate() }

    package var capacity: Int { memory.count }

    /// Lets `body` write into the memory; what it returns is the count of bytes that are the content from now on.
    package func fill<Failure: Error>(
        _ body: (UnsafeMutableRawBufferPointer) throws(Failure) -> Int
    ) throws(Failure) {
        count = min(try body(memory), memory.count)
    }

    package func withBytes<Result, Failure: Error>(
        _ body: (UnsafeRawBufferPointer) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        try body(UnsafeRawBufferPointer(rebasing: memory[..<count]))
    }
}
