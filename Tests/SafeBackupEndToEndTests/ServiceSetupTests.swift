import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Testing

#if canImport(Glibc)
    import Glibc
#endif

extension EndToEnd {
    @Suite("init by root, where the package is installed", .needsMountNamespace)
    struct ServiceSetups {
        private static let root = FilePath(#filePath).removingLastComponent().removingLastComponent()
            .removingLastComponent()

        /// Runs `script` in a system that has the package: its unit, its user, and a systemctl that notes what it is told.
        /// Nothing of it is left. `$sb` is the program; everything below /srv is the script's own.
        private func inSystem(_ script: String) async throws -> (ending: Ending?, outputText: String) {
            let bench = try Bench()
            let before = """
                set -e
                exec 2>&1
                mount -t tmpfs tmpfs /mnt
                cp -a /etc /mnt/etc
                mount --bind /mnt/etc /etc
                for place in /var/lib /run /srv; do mount -t tmpfs tmpfs $place; done
                echo 'safebackup:x:799:799::/var/lib/safebackup:/usr/sbin/nologin' >>/etc/passwd
                echo 'safebackup:x:799:' >>/etc/group
                mkdir -p /etc/systemd/system /run/systemd/system /srv/bin /srv/s/private
                cp '\(Self.root)/packaging/systemd/safebackup.service' /etc/systemd/system/
                cp '\(Bench.program)' /srv/bin/safebackup
                printf '#!/bin/sh\\necho "$*" >>/srv/asked\\n%s\\n' \\
                    'echo ActiveState=failed; echo UnitFileState=enabled; echo Result=watchdog' >/srv/bin/systemctl
                chmod +x /srv/bin/systemctl
                export PATH=/srv/bin:$PATH HOME=/root TMPDIR=/srv
                unset XDG_STATE_HOME XDG_CONFIG_HOME STATE_DIRECTORY
                sb=/srv/bin/safebackup
                echo secret >/srv/s/private/x
                chmod 0600 /srv/s/private/x
                chmod 0700 /srv/s/private

                """
            let program = try Program(
                ["unshare", "-m", "bash", "-c", FilePath(before + script)], output: bench.root.appending("out"),
                errors: bench.root.appending("err"))
            try await program.wait(within: .seconds(120))
            return (program.ending, program.outputText)
        }

        @Test(
            "It saves as the service's user, who owns what is made, writes /etc/safebackup/agent.conf and starts the unit"
        )
        func saves() async throws {
            let program = try await inSystem(
                """
                umask 077
                $sb init /srv/s /srv/backup --yes --exclude '*.tmp'
                echo "== $(stat -c %u:%a /srv/backup /srv/backup/private/x /var/lib/safebackup/queue.db | tr '\\n' ' ')"
                echo "== $(stat -c %U:%a /etc/safebackup /etc/safebackup/agent.conf | tr '\\n' ' ')"
                echo "== $(cat /srv/asked)"
                mkdir /srv/s2; echo two >/srv/s2/two
                $sb init /srv/s2 /srv/second --yes
                echo "== $(stat -c %U:%a /etc/safebackup/agent.conf.d /etc/safebackup/agent.conf.d/* | tr '\\n' ' ')"
                code=0; $sb doctor --json >/srv/doctor || code=$?
                echo "== $code $(grep -c 'safebackup.service has failed (watchdog)' /srv/doctor)"
                """)
            #expect(program.ending == .exit(0), "\(program.outputText)")
            let lines = program.outputText.split(separator: "\n").filter { $0.hasPrefix("==") }
            #expect(
                lines == [
                    "== 799:700 799:600 799:600 ", "== root:755 root:644 ", "== enable --now safebackup.service",
                    "== root:755 root:644 ", "== 3 1",
                ], "\(program.outputText)")
            #expect(program.outputText.contains("private/x (7 B) came back"), "\(program.outputText)")
        }

        @Test("What belongs to others is not taken: neither a destination with files nor the service's own state")
        func refuses() async throws {
            let program = try await inSystem(
                """
                set +e
                mkdir /srv/owned; echo mine >/srv/owned/mine
                $sb init /srv/s /srv/owned --yes; echo "== $?"
                $sb init /srv/s /srv/new --yes --config /srv/my.conf; echo "== $?"
                echo "== $(stat -c %u /srv/owned /srv/owned/mine | tr '\\n' ' ')"
                ls -A /srv/owned /var/lib
                [[ ! -e /etc/safebackup && ! -e /srv/new && ! -e /srv/my.conf ]] && echo "== nothing"
                $sb init /srv/s /srv/new --yes --config /srv/my.conf --state /srv/state >/srv/log; echo "== $?"
                """)
            let lines = program.outputText.split(separator: "\n").filter { $0.hasPrefix("==") }
            #expect(lines == ["== 2", "== 2", "== 0 0 ", "== nothing", "== 0"], "\(program.outputText)")
            #expect(program.outputText.contains("chown -R safebackup: /srv/owned"))
            #expect(program.outputText.contains("is the installed service's"))
        }

        @Test("A destination that root made is a problem, and doctor says whom to give it to")
        func foreignDestination() async throws {
            let program = try await inSystem(
                """
                set +e
                $sb init /srv/s /srv/backup --yes >/dev/null
                chown -R root: /srv/backup
                $sb doctor; echo "== $?"
                """)
            #expect(program.outputText.contains("== 3"))
            #expect(program.outputText.contains("sudo chown -R safebackup: /srv/backup"), "\(program.outputText)")
        }
    }
}

/// Whether a test may mount something that nobody else sees.
private let canMount: Bool = {
    do {
        try command(["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/srv"])
        return geteuid() == 0
    } catch {
        return false
    }
}()

extension Trait where Self == ConditionTrait {
    static var needsMountNamespace: Self {
        .enabled(if: canMount, "needs root and a mount namespace")
    }
}
