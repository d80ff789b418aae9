import SafeBackupS3
import Testing

@Suite("What the lifecycle rules of a bucket do to a prefix")
struct LifecycleRuleTests {
    private func rule(_ inner: String, status: String = "Enabled") throws -> LifecycleRule? {
        let text =
            "<LifecycleConfiguration><Rule><ID>r</ID><Status>\(status)</Status>\(inner)</Rule></LifecycleConfiguration>"
        return LifecycleRule.all(in: try XMLReader.read(Array(text.utf8))).first
    }

    @Test(
        "A rule is about everything below a prefix, a part of it, or nothing",
        arguments: [
            ("<Prefix></Prefix>", "home/", LifecycleRule.Reach.everything),
            ("<Filter/>", "home/", .everything),
            ("<Filter><Prefix>ho</Prefix></Filter>", "home/", .everything),
            ("<Filter><Prefix>home/docs</Prefix></Filter>", "home/", .part),
            ("<Filter><Prefix>other/</Prefix></Filter>", "home/", .nothing),
            ("<Filter><Prefix>logs/</Prefix></Filter>", "", .part),
            ("<Filter><ObjectSizeGreaterThan>5</ObjectSizeGreaterThan></Filter>", "home/", .part),
            ("<Filter><And><Prefix>home/</Prefix><Tag><Key>a</Key></Tag></And></Filter>", "home/", .nothing),
            ("<Filter><And><Prefix>home/</Prefix><ObjectSizeLessThan>9</ObjectSizeLessThan></And></Filter>", "", .part),
        ])
    func reach(_ filter: String, _ prefix: String, _ reach: LifecycleRule.Reach) throws {
        let rule = try #require(try rule(filter))
        #expect(rule.reach(below: Array(prefix.utf8)) == reach)
    }

    @Test("What it does and when is read; a marker's end and a class that can be read at once are harmless")
    func actions() throws {
        let days = try #require(try rule("<Expiration><Days>30</Days></Expiration>"))
        #expect(days.removal == "after 30 days" && days.name == "r")
        let date = try #require(try rule("<Expiration><Date>2027-01-31T00:00:00.000Z</Date></Expiration>"))
        #expect(date.removal == "on 2027-01-31")
        let marker = try #require(
            try rule("<Expiration><ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker></Expiration>"))
        #expect(marker.removal == nil)
        let moves = try #require(
            try rule(
                "<Transition><Days>1</Days><StorageClass>STANDARD_IA</StorageClass></Transition>"
                    + "<Transition><Days>9</Days><StorageClass>DEEP_ARCHIVE</StorageClass></Transition>"))
        #expect(moves.archive == "DEEP_ARCHIVE")
        let rest = try #require(
            try rule(
                "<NoncurrentVersionExpiration><NoncurrentDays>8</NoncurrentDays></NoncurrentVersionExpiration>"
                    + "<AbortIncompleteMultipartUpload><DaysAfterInitiation>7</DaysAfterInitiation>"
                    + "</AbortIncompleteMultipartUpload>"))
        #expect(rest.versionDays == 8 && rest.uploadDays == 7 && rest.removal == nil && rest.archive == nil)
        #expect(try rule("<Expiration><Days>1</Days></Expiration>", status: "Disabled") == nil)
    }
}
