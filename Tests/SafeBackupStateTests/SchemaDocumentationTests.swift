import Foundation
import Testing

@testable import SafeBackupState

@Suite("The documentation of the state")
struct SchemaDocumentationTests {
    @Test("StateSchema describes every table, view and column that there is, and none besides")
    func schema() async throws {
        let fixture = try StateFixture()
        _ = try await fixture.scene()
        let columns = try fixture.rows(
            """
            SELECT m.type || ' ' || m.name || '.' || p.name FROM sqlite_master m, pragma_table_info(m.name) p
            WHERE m.type IN ('table', 'view') AND m.name NOT LIKE 'sqlite_%'
            """)
        #expect(columns.count > 150)
        let file = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent().appendingPathComponent(
                "Sources/SafeBackup/Documentation.docc/StateSchema.md")
        var described: [String] = []
        var (kind, relation) = ("", "")
        for line in try String(contentsOf: file, encoding: .utf8).split(separator: "\n") {
            switch line {
            case "## Views": kind = "view"
            case "## Tables": kind = "table"
            case let heading where heading.hasPrefix("### "): relation = String(heading.dropFirst(4))
            case let row where row.hasPrefix("| `"):
                let cells = row.split(separator: "|").map { $0.trimmingCharacters(in: .whitespaces) }
                #expect(cells.count >= 2 && !cells[1].isEmpty, "\(row) says nothing")
                described.append("\(kind) \(relation).\(cells[0].trimmingCharacters(in: ["`"]))")
            default: break
            }
        }
        #expect(Set(described).count == described.count, "each is described once")
        #expect(Set(columns).subtracting(described).sorted() == [], "not described in StateSchema.md")
        #expect(Set(described).subtracting(columns).sorted() == [], "described in StateSchema.md, and not there")
    }
}
