import SafeBackupCore
import Testing

@Suite("Numbers with their nouns")
struct CountedTests {
    @Test(
        "Groups of three digits, also of the least number that there is",
        arguments: [
            (0, "0 files"), (1, "1 file"), (-1, "-1 files"), (999, "999 files"), (1_000, "1,000 files"),
            (-123_456, "-123,456 files"), (Int.min, "-9,223,372,036,854,775,808 files"),
        ])
    func groups(number: Int, text: String) {
        #expect(counted(number, "file") == text)
    }
}
