import SafeBackupCore
import Testing

@testable import SafeBackupState

@Suite struct PathTypeTests {
    static let odd: [[UInt8]] = [
        Array("plain".utf8),
        Array("with space\nand newline".utf8),
        Array("a|b'c\"d\\".utf8),
        // "é", composed and decomposed: two files.
        [0xC3, 0xA9], [0x65, 0xCC, 0x81],
        // Not UTF-8: a lone continuation, a cut sequence, an overlong slash, a surrogate.
        [0x80], [0x61, 0xE2, 0x82], [0xC0, 0xAF], [0xED, 0xA0, 0x80],
        [0x08, 0x01, 0x7F], [0xFF, 0xFF, 0xFF, 0xFF], Array("𝄞🎼".utf8), Array("123".utf8),
    ]

    @Test("Every name comes back byte for byte, from jobs and from the catalogue", arguments: odd)
    func roundTrip(leaf: [UInt8]) async throws {
        let fixture = try StateFixture()
        let scene = try await fixture.scene()
        let path = try RelativePath(leaf + [0x2F] + leaf + [0x2F] + leaf)
        try await scene.save(path, file(1))
        try await scene.enqueue([QueuedChange(path: path, action: .store, notBefore: scene.clock.now)])
        let job = try #require(try await scene.due().jobs.first)
        #expect(job.path == path)
        #expect(job.location == path)
        #expect(job.live?.fingerprint == fingerprint(1))
        #expect(job.occupant?.location == path)
        let page = try StateReader(in: fixture.directory).names(
            scene.source, scene.destination, within: path, .live, after: nil, limit: 10)
        #expect(page.entries.map(\.path) == [path])
    }

    @Test("Valid UTF-8 is TEXT that SQL can compare with a literal, everything else is BLOB")
    func types() async throws {
        let fixture = try StateFixture()
        let scene = try await fixture.scene()
        try await scene.enqueue([
            try scene.change("a/b"), try scene.change("ünï"),
            QueuedChange(path: try RelativePath([0x61, 0x2F, 0xFF]), action: .store, notBefore: scene.clock.now),
        ])
        #expect(try fixture.rows("SELECT count(*) FROM job WHERE path = 'a/b'") == ["1"])
        #expect(
            try fixture.rows("SELECT typeof(path), hex(path) FROM job ORDER BY path")
                == ["text|612F62", "text|C3BC6EC3AF", "blob|612FFF"])
        #expect(try fixture.rows("SELECT path FROM v_pending WHERE action = 'store' ORDER BY path").last == "ünï")
        #expect(try fixture.rows("SELECT path FROM v_pending WHERE path LIKE 'x''%'") == ["x'612FFF'"])
    }

    @Test("All of these are different paths to the state")
    func distinct() async throws {
        let fixture = try StateFixture()
        let scene = try await fixture.scene()
        let changes = try Self.odd.map {
            QueuedChange(path: try RelativePath($0), action: .store, notBefore: scene.clock.now)
        }
        #expect(try await scene.enqueue(changes) == EnqueueResult(new: changes.count))
        #expect(try await scene.enqueue(changes) == EnqueueResult(coalesced: changes.count))
        #expect(Set(try await scene.due().jobs.map(\.path)) == Set(changes.map(\.path)))
    }

    @Test("A range below a path holds all of its descendants of both types and no neighbour")
    func ranges() async throws {
        let fixture = try StateFixture()
        let scene = try await fixture.scene()
        let inside: [[UInt8]] = [
            Array("d/a".utf8), Array("d/a/b".utf8), [0x64, 0x2F, 0xFF], [0x64, 0x2F, 0xFF, 0x2F, 0x61],
            [0x64, 0x2F, 0x01],
        ]
        let outside: [[UInt8]] = [
            Array("d!".utf8), Array("d-/a".utf8), Array("d0".utf8), Array("d0/a".utf8), Array("da/b".utf8),
            [0x64, 0xFF], [0x64, 0xFF, 0x2F, 0x61], Array("e".utf8), Array("c/d/a".utf8),
        ]
        try await scene.save("d", directory())
        for path in inside + outside { try await scene.save(try RelativePath(path), file(1)) }
        let reader = try StateReader(in: fixture.directory)
        let found = try reader.names(
            scene.source, scene.destination, within: try RelativePath("d"), .live, after: nil, limit: 100)
        #expect(Set(found.entries.map(\.path.bytes)) == Set(inside + [Array("d".utf8)]))
        let all = try reader.names(scene.source, scene.destination, within: .root, .live, after: nil, limit: 100)
        #expect(all.entries.count == inside.count + outside.count + 1)
    }
}
