import SafeBackupCore
import Testing

@testable import SafeBackupCapacity

@Suite("The filter of what may go")
struct AgeFilterTests {
    @Test(
        "It never misses what is as old as the cut, and takes few of the others for it",
        arguments: ["shuffled", "ascending", "descending", "two times", "one outlier", "few"])
    func misses(_ spread: String) {
        var generator = SystemRandomNumberGenerator()
        let count = spread == "few" ? 1_000 : 100_000
        var times = (0..<count).map { Int64($0) * 1_000 }
        switch spread {
        case "shuffled": times.shuffle(using: &generator)
        case "descending": times.reverse()
        case "two times": times = times.indices.map { $0 % 2 == 0 ? 5 : 7 }
        case "one outlier": times[3] = .min
        default: break
        }
        var filter = AgeFilter()
        for (inode, time) in times.enumerated() { filter.insert(UInt64(inode) + 1, time: time) }
        let cut = times.sorted()[count / 5]
        filter.select(through: cut)
        var (missed, taken) = (0, 0)
        for (inode, time) in times.enumerated() {
            let mayGo = filter.mayContain(UInt64(inode) + 1)
            if time <= cut && !mayGo { missed += 1 }
            if time > cut && mayGo { taken += 1 }
        }
        #expect(missed == 0)
        // In any order; but of those that came first nothing is known, and in order they are no sample.
        if spread == "shuffled" || spread == "two times" { #expect(taken < count / 10, "\(taken)") }
    }
}
