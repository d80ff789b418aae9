import Testing

@testable import SafeBackupCapacity

@Suite("Where the cut falls")
struct AgeSelectionTests {
    private struct File {
        var key: AgeKey
        var bytes: Int64
    }

    /// What goes if the cut is followed: everything before it, then the oldest of its last stretch.
    private func followed(_ cut: AgeCut, _ files: [File], need: Int64) -> [AgeKey] {
        var (gone, freed) = ([AgeKey](), Int64(0))
        for file in files.sorted(by: { $0.key < $1.key }) where file.key <= cut.through {
            if let before = cut.before, file.key <= before {
                gone.append(file.key)
                freed += file.bytes
            } else if freed < need {
                gone.append(file.key)
                freed += file.bytes
            }
        }
        return gone
    }

    private func expected(_ files: [File], need: Int64) -> [AgeKey] {
        var (gone, freed) = ([AgeKey](), Int64(0))
        for file in files.sorted(by: { $0.key < $1.key }) where freed < need {
            gone.append(file.key)
            freed += file.bytes
        }
        return gone
    }

    @Test(
        "Exactly the oldest go, as many as are needed, whatever the order they are found in and however few bins there are",
        arguments: [
            "ascending", "descending", "shuffled", "one time", "one time, descending", "two times", "clustered",
        ],
        [16, 64, 1 << 16])
    func exact(spread: String, capacity: Int) throws {
        var generator = SplitMix(state: 7)
        var files = (0..<500).map { number in
            let time: Int64 =
                switch spread {
                case "one time", "one time, descending": 1
                case "two times": Int64(number % 2)
                case "clustered": number < 470 ? Int64(number) * 1_000_000 : 1_500_000_000 + Int64(number)
                default: Int64(number) * 1_000
                }
            return File(
                key: AgeKey(time: time, inode: UInt64(number + 12)),
                bytes: Int64(generator.next() % 8 + 1) * 512)
        }
        if spread.contains("descending") { files.reverse() }
        if spread == "shuffled" { files.shuffle(using: &generator) }
        let total = files.reduce(0) { $0 + $1.bytes }
        for need in [1, total / 5, total] {
            for isKnown in [true, false] {
                var selection = AgeSelection(need: isKnown ? need : nil, capacity: capacity)
                for file in files { selection.add(file.key, bytes: file.bytes) }
                let first = selection.cut(need: need)
                var cut = try #require(first)
                var rounds = 1
                while cut.files > 8 && rounds < 20 {
                    var finer = AgeHistogram(refining: cut, bins: capacity)
                    for file in files { finer.add(file.key, bytes: file.bytes, names: 1) }
                    let next = finer.cut(need: need)
                    cut = try #require(next)
                    rounds += 1
                }
                #expect(cut.isEnough)
                #expect(cut.files <= 8, "after \(rounds) rounds")
                if capacity == 1 << 16 { #expect(rounds == 1 && cut.files == 1) }
                #expect(followed(cut, files, need: need) == expected(files, need: need))
                #expect(cut.bytesBefore < need && cut.bytesBefore + cut.bytes >= need)
            }
        }
    }

    @Test("More than there is: all is selected, and it is said not to be enough")
    func notEnough() throws {
        var selection = AgeSelection(need: 1_000, capacity: 16)
        for number in 0..<100 { selection.add(AgeKey(time: Int64(number), inode: 1), bytes: 9) }
        let found = selection.cut(need: 1_000)
        let cut = try #require(found)
        #expect(!cut.isEnough)
        #expect(cut.bytesBefore + cut.bytes == 900)
        #expect(cut.through.time == 99)
    }

    @Test("What a round before had is left out of the next")
    func floor() throws {
        var selection = AgeSelection(need: 10, after: AgeKey(time: 49, inode: 1), capacity: 16)
        for number in 0..<100 { selection.add(AgeKey(time: Int64(number), inode: 1), bytes: 9) }
        let found = selection.cut(need: 10)
        let cut = try #require(found)
        #expect(cut.through == AgeKey(time: 51, inode: 1))
        #expect(cut.bytesBefore + cut.bytes == 18)
    }

    @Test("A file system that tells absurd sizes does not end the program")
    func absurd() {
        var selection = AgeSelection(need: nil, capacity: 16)
        for number in 0..<100 { selection.add(AgeKey(time: Int64(number), inode: 1), bytes: .max - 1) }
        let cut = selection.cut(need: .max)
        #expect(cut?.isEnough == true)
    }
}

@Suite("Who has all its names here")
struct LinkCensusTests {
    @Test("Exactly the inodes that lack names are known as such, in any order", arguments: [1, 2, 3, 4])
    func names(seed: UInt64) {
        var generator = SplitMix(state: seed)
        var names: [(inode: UInt64, links: UInt32)] = []
        var lacking: Set<UInt64> = []
        for inode in UInt64(1)...5_000 {
            let links = UInt32(generator.next() % 5 + 2)
            let present = generator.next() % 3 == 0 ? UInt32(generator.next() % UInt64(links - 1)) + 1 : links
            if present < links { lacking.insert(inode) }
            for _ in 0..<present { names.append((inode, links)) }
        }
        names.shuffle(using: &generator)
        var census = LinkCensus()
        var firsts: Set<UInt64> = []
        for name in names where census.see(name.inode, links: name.links) == .first { firsts.insert(name.inode) }
        #expect(firsts.count == 5_000)
        #expect(census.count == lacking.count)
        for inode in UInt64(1)...5_000 { #expect(census.isComplete(inode) == !lacking.contains(inode)) }
        #expect(census.names == names.filter { lacking.contains($0.inode) }.count)
    }

    @Test("Beyond the limit inodes count as having names elsewhere, never the other way round")
    func limit() {
        var census = LinkCensus(limit: 100)
        for inode in UInt64(1)...10_000 { _ = census.see(inode, links: 2) }
        #expect(census.count <= 100)
        #expect(census.isPartial)
        for inode in UInt64(1)...5_000 { _ = census.see(inode, links: 2) }
        for inode in UInt64(5_001)...10_000 { #expect(!census.isComplete(inode)) }
        #expect((UInt64(1)...5_000).contains { census.isComplete($0) })
    }
}

/// See: Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators".
struct SplitMix: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        defer { state &+= 0x9E37_79B9_7F4A_7C15 }
        return digest(state)
    }
}
