import Glibc
import SafeBackupCore
import SafeBackupSystem
import SystemPackage

/// Who else may read what nobody else should know.
extension ConfigurationFiles {
    /// A problem for each file that holds a secret and may be read by others.
    static func exposedSecrets(_ configuration: Configuration) -> [ConfigurationProblem] {
        var problems: [ConfigurationProblem] = []
        for section in configuration.sections where section.kind == .destination {
            for entry in ConfigurationKeys.of(.destination) where ConfigurationKeys.secrets.contains(entry.name) {
                for assigned in section.assigned(entry) {
                    guard let mode = mode(of: withCString(assigned.place.file) { FilePath(platformString: $0) }),
                        mode & 0o077 != 0
                    else { continue }
                    problems.append(
                        ConfigurationProblem(
                            assigned.place,
                            "\(entry.name): others may read this file (mode \(String(mode & 0o777, radix: 8))), and the "
                                + "secret with it; chmod 600 \(quoted(assigned.place.file)), or give the secret with "
                                + "secret-access-key-file"))
                }
            }
        }
        return problems
    }

    /// `nil`: it is not there, as one that is yet to be written.
    private static func mode(of file: FilePath) -> UInt32? {
        do throws(Errno) {
            return try Descriptor.open(file, O_RDONLY | O_NONBLOCK).status().mode
        } catch {
            return nil
        }
    }

    private static func quoted(_ path: [UInt8]) -> String { String(decoding: path, as: UTF8.self) }
}
