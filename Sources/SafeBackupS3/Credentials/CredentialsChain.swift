import SafeBackupCore
package import SafeBackupSystem

/// Finds keys where AWS's own programs find them, in their order: our configuration, the environment, web identity, the
/// shared files' profile, the container's role, the instance's role.
///
/// A source that is configured and fails ends the search: other keys than those that were meant would otherwise write to
/// somebody else's bucket, or be refused without telling why. Everything is read anew at each call, so that files that
/// were replaced count.
package struct CredentialsChain: Sendable {
    /// What our configuration says.
    package struct Settings: Sendable {
        /// Keys in the configuration itself; nothing else is asked then.
        package var explicit: S3Credentials?
        /// Wins over the environment's keys.
        package var profile: String?
        /// For STS, where the configuration names one.
        package var region: String?

        package init(explicit: S3Credentials? = nil, profile: String? = nil, region: String? = nil) {
            self.explicit = explicit
            self.profile = profile
            self.region = region
        }
    }

    private let settings: Settings
    private let environment: AWSEnvironment
    private let access: ServiceAccess

    /// - Parameters:
    ///   - io: its threads may block.
    ///   - sleep: pauses between attempts.
    package init(
        _ settings: Settings = Settings(), environment: AWSEnvironment = .current(), transport: any HTTPTransport,
        io: ThreadExecutor, clock: WallClock = .system,
        sleep: @escaping @Sendable (Duration) async -> Void = CredentialsChain.pause
    ) {
        self.settings = settings
        self.environment = environment
        access = ServiceAccess(transport: transport, io: io, clock: clock, sleep: sleep)
    }

    /// A pause that a cancelled task does not make.
    package static let pause: @Sendable (Duration) async -> Void = { duration in
        do { try await Task.sleep(for: duration) } catch {
            // Ignored because the attempt that follows fails at once in a cancelled task.
        }
    }

    /// Both shared files, for options such as `region` and `endpoint_url`.
    package func profiles() async throws(CredentialsFailure) -> AWSProfiles {
        let (environment, profile) = (environment, settings.profile)
        return try await access.io.run { () throws(CredentialsFailure) in
            try AWSProfiles(environment, profile: profile)
        }
    }

    /// The region that is configured anywhere, else the one in which this instance runs.
    ///
    /// - Parameter asksMetadata: asks the metadata service where nothing else says; that takes a second where there is none.
    package func region(asksMetadata: Bool) async throws(CredentialsFailure) -> String? {
        let profiles = try await profiles()
        if let region = configuredRegion(profiles) { return region }
        if !asksMetadata || InstanceMetadata.isDisabled(environment) { return nil }
        return await (try InstanceMetadata(environment, profiles, access: access)).region()
    }

    private func configuredRegion(_ profiles: AWSProfiles) -> String? {
        settings.region ?? environment.text("AWS_REGION") ?? environment.text("AWS_DEFAULT_REGION")
            ?? profiles.option("region")
    }

    /// Keys from the first source that has any.
    package func resolve() async throws(CredentialsFailure) -> S3Credentials {
        if let explicit = settings.explicit {
            guard !explicit.accessKey.isEmpty, !explicit.secretKey.isEmpty else {
                throw CredentialsFailure(
                    .incomplete, "The configuration has only one of access key and secret key; set both or none")
            }
            return explicit
        }
        if settings.profile == nil, let keys = try environmentKeys() { return keys }
        let profiles = try await profiles()
        let sts = SourceOfRoles(
            environment: environment, profiles: profiles, access: access,
            region: configuredRegion(profiles))
        if settings.profile == nil, let keys = try await sts.webIdentityOfEnvironment() { return keys }
        if profiles.isNamed && !profiles.exists(profiles.name) {
            throw CredentialsFailure(
                .profileNotFound,
                "There is no profile \(profiles.name) in \(profiles.files); correct the name, or add the profile")
        }
        if let keys = try await sts.keys(of: profiles.name) { return keys }
        if ContainerCredentials.isConfigured(environment) {
            return try await ContainerCredentials(environment: environment, access: access).load()
        }
        var metadata = "the metadata service is disabled (AWS_EC2_METADATA_DISABLED)"
        if !InstanceMetadata.isDisabled(environment) {
            do throws(CredentialsFailure) {
                return try await InstanceMetadata(environment, profiles, access: access).load()
            } catch {
                if error.kind != .none { throw error }
                metadata = error.message
            }
        }
        throw none(profiles, metadata)
    }

    private func environmentKeys() throws(CredentialsFailure) -> S3Credentials? {
        guard let access = environment.text("AWS_ACCESS_KEY_ID") else { return nil }
        guard let secret = environment.text("AWS_SECRET_ACCESS_KEY") else {
            throw CredentialsFailure(
                .incomplete, "The environment has AWS_ACCESS_KEY_ID but no AWS_SECRET_ACCESS_KEY; set both or none")
        }
        return S3Credentials(
            accessKey: access, secretKey: secret, sessionToken: environment.text("AWS_SESSION_TOKEN"), provider: "env")
    }

    private func none(_ profiles: AWSProfiles, _ metadata: String) -> CredentialsFailure {
        var tried: [String] = []
        tried.append(
            settings.profile == nil
                ? "AWS_ACCESS_KEY_ID is not set" : "the environment's keys are not used because a profile is named")
        if settings.profile == nil { tried.append("AWS_WEB_IDENTITY_TOKEN_FILE is not set") }
        let lines = (profiles.config.file.junk + profiles.credentials.file.junk).count
        let junk = lines == 0 ? "" : " (\(lines) lines there could not be read)"
        tried.append("profile \(profiles.name) has no keys in \(profiles.files)\(junk)")
        tried.append("no container's role (AWS_CONTAINER_CREDENTIALS_…)")
        tried.append(metadata)
        return CredentialsFailure(
            .none,
            "No keys for the storage were found: \(tried.joined(separator: "; ")). Set keys in the configuration, a "
                + "profile in \(profiles.credentials.path), or give this machine a role")
    }
}
