import Glibc
import SafeBackupAgent
import SafeBackupCore
import SafeBackupSystem
import Synchronization

/// One line on a terminal that tells what the agent is doing; quiet once everything is saved.
final class TerminalProgress: Sendable {
    private let agent: Agent
    private let task = Locked<Task<Void, Never>?>(nil)
    private let isReady = Atomic(false)

    init(agent: Agent) { self.agent = agent }

    func start() {
        task.withLock { task in
            task = Task { await self.show() }
        }
    }

    func becameReady() { isReady.store(true, ordering: .releasing) }

    func stop() async {
        let running = task.withLock { $0 }
        running?.cancel()
        await running?.value
    }

    private func show() async {
        let began = ContinuousClock.now
        var (lastBytes, lastTime, rate) = (Int64(0), began, 0.0)
        var (wasBusy, wasIdle, isAnnounced) = (true, false, false)
        while !Task.isCancelled {
            let snapshot = agent.progress.snapshot
            let waiting = await agent.waiting()
            let isBusy = snapshot.isScanning || snapshot.walks == 0 || waiting?.jobs != 0
            let now = ContinuousClock.now
            let seconds =
                Double((now - lastTime).components.attoseconds) / 1e18 + Double((now - lastTime).components.seconds)
            if seconds >= 0.5 {
                rate = Double(snapshot.savedBytes - lastBytes) / seconds
                (lastBytes, lastTime) = (snapshot.savedBytes, now)
            }
            if isBusy {
                draw(snapshot, pending: waiting?.jobs ?? 0, rate: rate)
                wasBusy = true
            } else if wasBusy && wasIdle {
                erase()
                wasBusy = false
                // Once is enough: later changes show only while they are being saved.
                if !isAnnounced { announce(snapshot, stuck: waiting?.stuck ?? 0) }
                isAnnounced = true
            }
            // The counters follow the queue by a moment: believe the second quiet look.
            wasIdle = !isBusy
            do { try await Task.sleep(for: .milliseconds(200)) } catch { break }  // cancelled: the run is over
        }
        erase()
    }

    private func announce(_ snapshot: Progress.Snapshot, stuck: Int) {
        var text = "In sync: \(counted(snapshot.savedFiles, "file")), \(ByteCount(snapshot.savedBytes)) saved"
        if stuck > 0 { text += ", \(stuck) stuck (see 'safebackup status')" }
        if isReady.load(ordering: .acquiring) { text += "; watching" }
        Console.print(text)
    }

    private func draw(_ snapshot: Progress.Snapshot, pending: Int, rate: Double) {
        var line = "\(counted(snapshot.savedFiles, "file")), \(ByteCount(snapshot.savedBytes)) saved"
        line += ", \(ByteCount(Int64(rate)))/s, \(pending) pending"
        if snapshot.isScanning { line += ", \(snapshot.scanned) seen" }
        if let current = snapshot.current { line += "  \(current)" }
        var size = winsize()
        let columns = ioctl(1, UInt(TIOCGWINSZ), &size) == 0 && size.ws_col > 10 ? Int(size.ws_col) : 80
        Console.write("\r\u{1B}[K" + String(line.prefix(columns - 1)), to: 1)
    }

    private func erase() { Console.write("\r\u{1B}[K", to: 1) }
}
