import Glibc
import SafeBackupCore
import SafeBackupSystem
package import SystemPackage

/// The two files of profiles that the AWS programs share, read once, and which of their profiles is meant.
package struct AWSProfiles: Sendable {
    package struct Source: Sendable {
        package var path: FilePath
        package var file = ProfileFile()
        /// Somebody other than its owner and root may write the file, so that a program it names is not run.
        package var isWritableByOthers = false
    }

    package private(set) var config: Source
    package private(set) var credentials: Source
    /// The profile that the configuration names, or `AWS_PROFILE`, or `default`.
    package let name: String
    /// It was asked for by name, so that it must be there.
    package let isNamed: Bool

    /// Reads both files; one that is not there is empty. Blocks.
    ///
    /// - Parameter profile: what our own configuration names.
    /// - Throws: `fileSyntax` for a file that is there and cannot be read.
    package init(_ environment: AWSEnvironment, profile: String?) throws(CredentialsFailure) {
        config = Source(path: Self.path(environment, "AWS_CONFIG_FILE", "config"))
        credentials = Source(path: Self.path(environment, "AWS_SHARED_CREDENTIALS_FILE", "credentials"))
        let named = profile ?? environment.text("AWS_PROFILE") ?? environment.text("AWS_DEFAULT_PROFILE")
        name = named ?? "default"
        isNamed = named != nil
        try Self.read(&config, .config)
        try Self.read(&credentials, .credentials)
    }

    package func exists(_ profile: String) -> Bool {
        config.file.profile(profile) != nil || credentials.file.profile(profile) != nil
    }

    /// An option that is not empty; the credentials file's comes first.
    package func option(_ option: String, of profile: String) -> String? {
        for source in [credentials, config] {
            if let value = source.file.profile(profile)?.options[option], !value.isEmpty { return value }
        }
        return nil
    }

    /// The option of the profile that is meant.
    package func option(_ option: String) -> String? { self.option(option, of: name) }

    /// An option of a block within the profile, as `addressing_style` of `s3`.
    package func nested(_ option: String, in block: String) -> String? {
        config.file.profile(name)?.nested[block]?[option]
    }

    /// `endpoint_url` for one service: of the `services` section that the profile names, else the profile's own.
    package func endpoint(of service: String) -> String? {
        if let services = option("services"),
            let section = config.file.sections[ProfileFile.Name(type: "services", name: services)],
            let url = section.nested[service]?["endpoint_url"], !url.isEmpty
        {
            return url
        }
        return option("endpoint_url")
    }

    /// `option NAME of profile P in FILE`, for messages.
    func place(_ option: String, of profile: String) -> String {
        let source = credentials.file.profile(profile)?.options[option] != nil ? credentials : config
        return "option \(option) of profile \(profile) in \(source.path)"
    }

    /// Both files, for messages.
    var files: String { "\(config.path) and \(credentials.path)" }

    private static func path(_ environment: AWSEnvironment, _ variable: String, _ leaf: String) -> FilePath {
        let home = environment.path("HOME") ?? FilePath("/root")
        guard let path = environment.path(variable) else { return home.appending(".aws").appending(leaf) }
        guard path.components.first?.string == "~" else { return path }
        return home.appending(path.components.dropFirst())
    }

    private static func read(_ source: inout Source, _ kind: ProfileFile.Kind) throws(CredentialsFailure) {
        do throws(Errno) {
            let descriptor = try Descriptor.open(source.path, O_RDONLY | O_NONBLOCK)
            let status = try descriptor.status()
            source.isWritableByOthers = status.mode & 0o022 != 0 || (status.uid != 0 && status.uid != geteuid())
            source.file = ProfileFile(try descriptor.readAll(limit: 1 << 20), kind)
        } catch {
            // Usually it is not there: keys come from elsewhere then.
            if error == .noSuchFileOrDirectory || error == .notDirectory { return }
            throw CredentialsFailure(
                .fileSyntax,
                "The file of profiles \(source.path) cannot be read: \(error.explanation); let the agent's user read it"
            )
        }
    }
}

extension FilePath {
    /// A path of the machine, byte by byte.
    init(machineBytes bytes: [UInt8]) {
        self = SafeBackupSystem.withCString(bytes) { FilePath(platformString: $0) }
    }
}
