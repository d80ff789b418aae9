import Foundation
import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Testing

extension EndToEnd {
    /// Editors replace a file by another, with temporary, lock and backup files that come and go beside it.
    @Suite("How editors save")
    struct Editors {
        private static let ways: [(name: String, script: String)] = [
            ("sed -i", #"sed -i "s/^text.*/text $2/" "$1""#),
            ("vim", #"vim -u NONE -es -c "%s/^text.*/text $2/" -c wq "$1" </dev/null"#),
            (
                "vim with a copy",
                #"vim -u NONE -es -c "set backupcopy=yes backup" -c "%s/^text.*/text $2/" -c wq "$1" </dev/null"#
            ),
            ("ed", #"printf ',s/^text.*/text %s/\nw\nq\n' "$2" | ed -s "$1""#),
            // The file becomes its own backup, and a new one takes its name.
            (
                "emacs",
                #"ln -s nobody@here "${1%/*}/.#${1##*/}"; mv "$1" "$1~"; printf 'text %s\n' "$2" >"$1"; rm "${1%/*}/.#${1##*/}""#
            ),
            // A lock file, a temporary one beside it that is renamed over it.
            (
                "LibreOffice",
                #"d=${1%/*}; : >"$d/.~lock.${1##*/}#"; printf 'text %s\n' "$2" >"$d/lu$$.tmp"; mv "$d/lu$$.tmp" "$1"; rm "$d/.~lock.${1##*/}#""#
            ),
            ("in place", #"printf 'text %s\n' "$2" >"$1""#),
            ("truncated, then written", #": >"$1"; printf 'text ' >>"$1"; printf '%s\n' "$2" >>"$1""#),
        ]

        private static func isThere(_ program: String) -> Bool {
            ["/usr/bin/", "/bin/"].contains { FileManager.default.isExecutableFile(atPath: $0 + program) }
        }

        /// The system's editors only where they are installed.
        private static let names = ways.map(\.name).filter { name in
            let program = String(name.prefix { $0 != " " })
            return !["vim", "ed"].contains(program) || isThere(program)
        }

        @Test(
            "The last saved content is in the backup, and nothing temporary is stuck or failed",
            .timeLimit(.minutes(2)), arguments: names)
        func saves(_ name: String) async throws {
            let script = try #require(Self.ways.first { $0.name == name }?.script)
            let bench = try Bench()
            for document in ["a.txt", "dir/b.txt"] { try bench.write(document, "text 0\n") }
            let agent = try await bench.startAgent()
            try await bench.expectInSync(agent)
            let loop =
                #"set -e; save() { "# + script
                + #"; }; for n in {1..25}; do save "$0/a.txt" $n; save "$0/dir/b.txt" $n; done"#
            try command(["bash", "-c", FilePath(loop), bench.source])
            try await bench.expectInSync(agent)
            for document in ["a.txt", "dir/b.txt"] {
                #expect(try read(bench.backup.appending(document)) == Array("text 25\n".utf8))
            }
            let status = try await bench.run(["status", "--state", bench.state])
            #expect(status.ending == .exit(0), "\(status.outputText)")
            let lines = agent.errorText.split(separator: "\n").filter {
                $0.contains(" error ") || $0.contains(" warning ")
            }
            #expect(lines.allSatisfy { $0.contains("same file system") }, "\(lines)")
            try await bench.stop(agent)
            try bench.expectSaved()
        }
    }
}
