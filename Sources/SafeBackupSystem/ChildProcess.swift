import Glibc
package import SystemPackage

/// Runs another program to its end. Blocks.
package enum ChildProcess {
    package struct Result: Sendable {
        /// Its exit code, or 128 and the number of the signal that ended it, as a shell tells it.
        package var code: Int32
        /// What it wrote to standard output, at most about a mebibyte; empty unless it was asked for.
        package var output: [UInt8]
    }

    static let limit = 1 << 20

    /// Looks the first argument up on the PATH. Standard input is empty; standard error is ours, and so is standard output
    /// unless it is collected. Throws the system's refusal to start it, `ENOENT` if there is no such program.
    /// The corresponding C function is `posix_spawnp`.
    /// - Parameter limit: it is killed if it has not ended by then, and `ETIMEDOUT` is thrown; `nil`: it may take any time.
    package static func run(
        _ arguments: [[UInt8]], collectsOutput: Bool, within limit: Duration? = nil
    ) throws(Errno) -> Result {
        let deadline = limit.map { ContinuousClock.now + $0 }
        var ends: [Int32] = [-1, -1]
        if collectsOutput { try systemCall("pipe") { pipe(&ends) } }
        let reading = collectsOutput ? Descriptor(owning: ends[0]) : nil
        var writing = collectsOutput ? Descriptor(owning: ends[1]) : nil
        for descriptor in [reading, writing].compactMap(\.self) { _ = fcntl(descriptor.raw, F_SETFD, FD_CLOEXEC) }
        let process = try start(arguments, output: writing?.raw)
        writing = nil
        var output: [UInt8] = []
        if let reading {
            do throws(Errno) {
                try read(reading, until: deadline, into: &output)
            } catch {
                // Ignored because its end tells more than what could not be read of its words.
            }
        }
        return Result(code: try wait(for: process, until: deadline), output: output)
    }

    /// - Parameters:
    ///   - environment: `NAME=VALUE` each; `nil`: ours.
    ///   - isGroup: it leads a process group of its own, which can be ended with all that it started.
    static func start(
        _ arguments: [[UInt8]], output: Int32?, environment: [[UInt8]]? = nil, isGroup: Bool = false
    ) throws(Errno) -> pid_t {
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
        if let output { posix_spawn_file_actions_adddup2(&actions, output, 1) }
        // What we ignore or block is no matter of the other program's.
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        var none = sigset_t()
        sigemptyset(&none)
        posix_spawnattr_setsigmask(&attributes, &none)
        var all = sigset_t()
        sigfillset(&all)
        posix_spawnattr_setsigdefault(&attributes, &all)
        var flags = POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF
        if isGroup { flags |= POSIX_SPAWN_SETPGROUP }
        posix_spawnattr_setflags(&attributes, Int16(flags))
        var strings: [UnsafeMutablePointer<CChar>?] = arguments.map { withCString($0) { strdup($0) } }
        defer { for string in strings { free(string) } }
        strings.append(nil)
        guard let program = strings[0] else { throw .noSuchFileOrDirectory }
        var variables: [UnsafeMutablePointer<CChar>?] = (environment ?? []).map { withCString($0) { strdup($0) } }
        defer { for variable in variables { free(variable) } }
        variables.append(nil)
        var process: pid_t = 0
        let failure =
            environment == nil
            ? posix_spawnp(&process, program, &actions, &attributes, strings, environ)
            : posix_spawnp(&process, program, &actions, &attributes, strings, variables)
        if failure != 0 { throw Errno(rawValue: failure) }
        return process
    }

    /// Returns at the end of the output, or of the time.
    private static func read(
        _ pipe: Descriptor, until deadline: ContinuousClock.Instant?, into output: inout [UInt8]
    ) throws(Errno) {
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 16 << 10, alignment: 16)
        defer { buffer.deallocate() }
        while true {
            if let deadline, try !pipe.isReadable(within: max(deadline - .now, .zero)) { return }
            let count = try pipe.read(into: buffer)
            if count == 0 { return }
            // Read to its end, or it would wait for us.
            if output.count < limit { output += buffer[..<count] }
        }
    }

    private static func wait(
        for process: pid_t, until deadline: ContinuousClock.Instant?
    ) throws(Errno) -> Int32 {
        var status: Int32 = 0
        while let deadline {
            if try systemCall("waitpid", { waitpid(process, &status, WNOHANG) }) != 0 { return code(of: status) }
            if deadline <= .now {
                kill(process, SIGKILL)
                try systemCall("waitpid") { waitpid(process, &status, 0) }
                throw .timedOut
            }
            // It has closed its output, so that its end is a matter of moments.
            usleep(5_000)
        }
        try systemCall("waitpid") { waitpid(process, &status, 0) }
        return code(of: status)
    }

    static func code(of status: Int32) -> Int32 {
        let signal = status & 0x7F
        return signal == 0 ? status >> 8 & 0xFF : 128 + signal
    }
}
