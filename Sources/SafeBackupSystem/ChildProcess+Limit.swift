import Glibc
package import SystemPackage

extension ChildProcess {
    /// Runs a program in an environment of the caller's and collects its standard output, for a limited time: at its end
    /// the program and what it started are killed, and `timedOut` is thrown. Blocks.
    ///
    /// What the program left running in the background does not hold us up, even if it holds the output open.
    /// Throws the system's refusal to start it, `noSuchFileOrDirectory` if there is no such program.
    package static func run(
        _ arguments: [[UInt8]], environment: [[UInt8]], within limit: Duration
    ) throws(Errno) -> Result {
        var ends: [Int32] = [-1, -1]
        try systemCall("pipe") { pipe(&ends) }
        let reading = Descriptor(owning: ends[0])
        var writing: Descriptor? = Descriptor(owning: ends[1])
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        let process = try start(arguments, output: writing?.raw, environment: environment, isGroup: true)
        writing = nil
        let deadline = ContinuousClock.now + limit
        var output: [UInt8] = []
        var isOpen = true
        var status: Int32?
        while true {
            // Asked before the output is read, so that what it wrote before its end is read after it.
            if status == nil { status = endedStatus(of: process) }
            if isOpen { isOpen = readAvailable(reading, into: &output, wait: status == nil) }
            if let status, !isOpen || !hasMore(reading) { return Result(code: code(of: status), output: output) }
            if status == nil, ContinuousClock.now >= deadline {
                kill(-process, SIGKILL)
                var ignored: Int32 = 0
                try systemCall("waitpid") { waitpid(process, &ignored, 0) }
                throw .timedOut
            }
            if !isOpen { usleep(10_000) }
        }
    }

    /// The status of a child that has ended; also of one that cannot be waited for, so that nobody waits for ever.
    private static func endedStatus(of process: pid_t) -> Int32? {
        var status: Int32 = 0
        let ended = waitpid(process, &status, WNOHANG)
        if ended == 0 { return nil }
        return ended == process ? status : 1 << 8
    }

    private static func hasMore(_ pipe: Descriptor) -> Bool {
        var look = pollfd(fd: pipe.raw, events: Int16(POLLIN), revents: 0)
        return poll(&look, 1, 0) == 1 && look.revents & Int16(POLLIN) != 0
    }

    /// Reads once if there is something, for which it waits a moment. Whether more may come.
    private static func readAvailable(_ pipe: Descriptor, into output: inout [UInt8], wait: Bool) -> Bool {
        var look = pollfd(fd: pipe.raw, events: Int16(POLLIN), revents: 0)
        if poll(&look, 1, wait ? 20 : 0) != 1 { return true }
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 16 << 10, alignment: 16)
        defer { buffer.deallocate() }
        do throws(Errno) {
            let count = try pipe.read(into: buffer)
            if count == 0 { return false }
            if output.count < ChildProcess.limit { output += buffer[..<count] }
            return true
        } catch {
            // Ignored because its end tells more than what could not be read of its words.
            return false
        }
    }
}
