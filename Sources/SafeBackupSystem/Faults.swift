import CSafeBackupLinux
package import SystemPackage

import Glibc

#if SAFEBACKUP_FAULTS
#endif

/// The seam through which tests fail the Nth system call or die at a step of a protocol.
/// In a release build both functions are empty.
package enum Faults {
    /// Called before each system call. `nil`: go on.
    @inline(__always)
    package static func next(_ call: StaticString) -> Errno? {
        #if SAFEBACKUP_FAULTS
            return FaultPlan.current?.next(call)
        #else
            return nil
        #endif
    }

    /// How many of `count` bytes the next read or write may move.
    @inline(__always)
    package static func allowed(_ count: Int, in call: StaticString) -> Int {
        #if SAFEBACKUP_FAULTS
            return FaultPlan.current?.allowed(count) ?? count
        #else
            return count
        #endif
    }

    /// Called at each step of the store protocol, where a test may end the process or look at the disk.
    @inline(__always)
    package static func reach(_ step: StaticString) {
        #if SAFEBACKUP_FAULTS
            FaultPlan.current?.reach(step)
        #endif
    }
}

#if SAFEBACKUP_FAULTS
    /// What a test wants to fail: of the calling thread (`run`), or of the whole process by the environment.
    ///
    /// `SAFEBACKUP_FAULT` is a list of `key=value` joined by `,`:
    /// `call=fsync` (all calls without it), `nth=3` (from 1), `errno=28`, `forever=1` (also each later call),
    /// `short=1` (reads and writes move one byte less than asked, at least 1), `kill=STEP` (SIGKILL at the nth reach of
    /// STEP), `stop=STEP` (SIGSTOP there, so that a test can copy the disk), `hang=STEP` (that thread goes no further),
    /// `report=1` (at exit one line on stderr,
    /// `faults: C calls, F given`, so that a test knows where the Nth call ends).
    package final class FaultPlan: Sendable {
        private struct State {
            var calls = 0
            var reached = 0
            var fired = 0
        }

        private let call: String?
        private let nth: Int
        private let error: Errno?
        private let isForever: Bool
        private let isShort: Bool
        private let step: String?
        private let signal: Int32
        private let onReach: (@Sendable (String) -> Void)?
        private let state = Locked(State())

        package init(
            call: String? = nil, nth: Int = 1, error: Errno? = nil, isForever: Bool = false, isShort: Bool = false,
            step: String? = nil, signal: Int32 = SIGKILL, onReach: (@Sendable (String) -> Void)? = nil
        ) {
            self.call = call
            self.nth = nth
            self.error = error
            self.isForever = isForever
            self.isShort = isShort
            self.step = step
            self.signal = signal
            self.onReach = onReach
        }

        private static let slots = Locked<(next: Int64, plans: [Int64: FaultPlan])>((1, [:]))

        private static let process: FaultPlan? = {
            guard let pointer = getenv("SAFEBACKUP_FAULT") else { return nil }
            var call: String?
            var (nth, error, step, signal) = (1, Errno?.none, String?.none, SIGKILL)
            var (isForever, isShort, isReporting) = (false, false, false)
            for part in String(cString: pointer).split(separator: ",") {
                let pair = part.split(separator: "=", maxSplits: 1).map(String.init)
                guard pair.count == 2 else { continue }
                switch pair[0] {
                case "call": call = pair[1]
                case "nth": nth = Int(pair[1]) ?? 1
                case "errno": error = Int32(pair[1]).map { Errno(rawValue: $0) }
                case "forever": isForever = pair[1] == "1"
                case "short": isShort = pair[1] == "1"
                case "report": isReporting = pair[1] == "1"
                case "kill": (step, signal) = (pair[1], SIGKILL)
                case "hang": (step, signal) = (pair[1], 0)
                case "stop": (step, signal) = (pair[1], SIGSTOP)
                default: break
                }
            }
            if isReporting { atexit { FaultPlan.process?.report() } }
            return FaultPlan(
                call: call, nth: nth, error: error, isForever: isForever, isShort: isShort, step: step, signal: signal)
        }()

        private func report() {
            let line = Array("faults: \(counts.calls) calls, \(counts.fired) given\n".utf8)
            _ = line.withUnsafeBytes { write(2, $0.baseAddress, $0.count) }
        }

        /// The calling thread's plan, else the process's.
        static var current: FaultPlan? {
            let slot = sb_thread_slot()
            if slot == 0 { return process }
            return slots.withLock { $0.plans[slot] }
        }

        /// Runs `body` on this thread under this plan.
        package func run<R>(_ body: () throws -> R) rethrows -> R {
            let before = sb_thread_slot()
            let slot = Self.slots.withLock { slots in
                let slot = slots.next
                slots.next += 1
                slots.plans[slot] = self
                return slot
            }
            sb_set_thread_slot(slot)
            defer {
                sb_set_thread_slot(before)
                _ = Self.slots.withLock { $0.plans.removeValue(forKey: slot) }
            }
            return try body()
        }

        /// Calls seen, and faults given.
        package var counts: (calls: Int, fired: Int) { state.withLock { ($0.calls, $0.fired) } }

        func next(_ name: StaticString) -> Errno? {
            guard call == nil || name.description == call else { return nil }
            return state.withLock { state in
                state.calls += 1
                guard let error, state.calls == nth || (isForever && state.calls > nth) else { return nil }
                state.fired += 1
                return error
            }
        }

        func allowed(_ count: Int) -> Int { isShort ? max(1, count - 1) : count }

        func reach(_ name: StaticString) {
            onReach?(name.description)
            guard name.description == step else { return }
            let fires = state.withLock { state in
                state.reached += 1
                return state.reached == nth
            }
            if fires && signal != 0 { kill(getpid(), signal) }
            while fires && signal == 0 { sleep(1) }
        }
    }
#endif
