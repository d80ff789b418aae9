import SafeBackupCore
import SafeBackupSystem
import SystemPackage

/// Keys of a profile of the shared files: a role of another profile, a program's, or static ones.
struct SourceOfRoles {
    /// Options that need a person at a browser.
    private static let interactive = ["sso_session", "sso_start_url", "sso_account_id"]

    var environment: AWSEnvironment
    var profiles: AWSProfiles
    var access: ServiceAccess
    var region: String?

    /// Of `AWS_WEB_IDENTITY_TOKEN_FILE` and `AWS_ROLE_ARN`; `nil` if there is no such file named.
    func webIdentityOfEnvironment() async throws(CredentialsFailure) -> S3Credentials? {
        guard let file = environment.path("AWS_WEB_IDENTITY_TOKEN_FILE") else { return nil }
        guard let role = environment.text("AWS_ROLE_ARN") else {
            throw CredentialsFailure(
                .invalidConfiguration,
                "The environment has AWS_WEB_IDENTITY_TOKEN_FILE but no AWS_ROLE_ARN; set both or none")
        }
        let request = RoleRequest(
            arn: role, sessionName: environment.text("AWS_ROLE_SESSION_NAME") ?? sessionName(), duration: nil,
            externalID: nil, place: "the environment (AWS_ROLE_ARN)")
        return try await service().assumeRole(request, tokenFile: file, place: "AWS_WEB_IDENTITY_TOKEN_FILE")
    }

    /// The profile's keys; `nil` if it says nothing about keys.
    func keys(of profile: String) async throws(CredentialsFailure) -> S3Credentials? {
        if profiles.option("role_arn", of: profile) != nil
            && profiles.option("web_identity_token_file", of: profile) == nil
        {
            return try await role(of: profile)
        }
        return try await keysWithoutSource(of: profile)
    }

    /// What the profile has by itself, without another profile.
    private func keysWithoutSource(of profile: String) async throws(CredentialsFailure) -> S3Credentials? {
        if let file = profiles.option("web_identity_token_file", of: profile) {
            let place = profiles.place("web_identity_token_file", of: profile)
            guard profiles.option("role_arn", of: profile) != nil else {
                throw CredentialsFailure(.invalidConfiguration, "There is no role_arn beside the \(place)")
            }
            return try await service().assumeRole(request(profile), tokenFile: FilePath(file), place: place)
        }
        for option in Self.interactive where profiles.option(option, of: profile) != nil {
            throw interactive(option, profile)
        }
        if let keys = try staticKeys(profile, profiles.credentials, "shared-credentials-file") { return keys }
        if profiles.option("login_session", of: profile) != nil { throw interactive("login_session", profile) }
        if let command = profiles.option("credential_process", of: profile) {
            return try await process(command, profile)
        }
        return try staticKeys(profile, profiles.config, "config-file")
    }

    private func interactive(_ option: String, _ profile: String) -> CredentialsFailure {
        CredentialsFailure(
            .invalidConfiguration,
            "The \(profiles.place(option, of: profile)) needs somebody to log in with a browser, which an agent cannot; "
                + "make another profile with credential_process = aws configure export-credentials --profile \(profile) "
                + "--format process")
    }

    private func staticKeys(
        _ profile: String, _ source: AWSProfiles.Source, _ provider: String
    ) throws(CredentialsFailure) -> S3Credentials? {
        guard let section = source.file.profile(profile),
            let access = section.options["aws_access_key_id"], !access.isEmpty
        else { return nil }
        guard let secret = section.options["aws_secret_access_key"], !secret.isEmpty else {
            throw CredentialsFailure(
                .incomplete,
                "Profile \(profile) in \(source.path) has aws_access_key_id but no aws_secret_access_key; add it")
        }
        let token = section.options["aws_session_token"]
        return S3Credentials(
            accessKey: access, secretKey: secret, sessionToken: token?.isEmpty == true ? nil : token,
            provider: provider)
    }

    private func process(_ command: String, _ profile: String) async throws(CredentialsFailure) -> S3Credentials {
        let place = profiles.place("credential_process", of: profile)
        let isOfCredentials = profiles.credentials.file.profile(profile)?.options["credential_process"] != nil
        let source = isOfCredentials ? profiles.credentials : profiles.config
        if source.isWritableByOthers {
            throw CredentialsFailure(
                .invalidConfiguration,
                "The program of the \(place) is not run, because others than its user may write that file; "
                    + "chmod go-w \(source.path), and let root or the agent's user own it")
        }
        let process = ProcessCredentials(command: command, place: "the \(place)", environment: environment)
        let now = access.clock.now
        let keys = try await access.io.run { () throws(CredentialsFailure) in try process.load() }
        if let expiration = keys.expiration, expiration <= now {
            throw CredentialsFailure(
                .retrieval, "The program of the \(place) printed keys that have expired; log in again for it")
        }
        return keys
    }

    // MARK: Roles

    /// The keys of the profile's role, taken on with the keys of its source.
    private func role(of profile: String) async throws(CredentialsFailure) -> S3Credentials {
        // The roles between the profile and the keys that it begins with, the profile's own first.
        var roles: [RoleRequest] = []
        var visited: [String] = []
        var current = profile
        while true {
            visited.append(current)
            roles.append(try request(current))
            let place = "profile \(current) in \(profiles.config.path)"
            let source = profiles.option("source_profile", of: current)
            let named = profiles.option("credential_source", of: current)
            if source != nil && named != nil {
                throw CredentialsFailure(
                    .invalidConfiguration, "The \(place) has both source_profile and credential_source; remove one")
            }
            if let named {
                return try await assume(roles, with: try await keys(ofSource: named, place))
            }
            guard let source else {
                throw CredentialsFailure(
                    .incomplete, "The \(place) has a role_arn, but neither source_profile nor credential_source")
            }
            guard profiles.exists(source) else {
                throw CredentialsFailure(
                    .invalidConfiguration, "The source_profile \(source) of \(place) does not exist")
            }
            let isStatic = hasStaticKeys(source)
            if visited.contains(source) && !(source == current && isStatic) {
                throw CredentialsFailure(
                    .sourceLoop,
                    "The profiles \((visited + [source]).joined(separator: ", ")) name each other as source_profile; "
                        + "one of them must have keys")
            }
            if !isStatic && profiles.option("role_arn", of: source) != nil
                && profiles.option("web_identity_token_file", of: source) == nil
            {
                current = source
                continue
            }
            guard let found = try await keysWithoutSource(of: source) else {
                throw CredentialsFailure(
                    .invalidConfiguration, "The source_profile \(source) of \(place) has no keys; add them")
            }
            return try await assume(roles, with: found)
        }
    }

    /// The keys of the first role, taken on by those after it, the last with `source`.
    private func assume(
        _ roles: [RoleRequest], with source: S3Credentials
    ) async throws(CredentialsFailure) -> S3Credentials {
        let service = try service()
        var keys = source
        for role in roles.reversed() { keys = try await service.assumeRole(role, source: keys) }
        return keys
    }

    private func hasStaticKeys(_ profile: String) -> Bool {
        profiles.option("aws_access_key_id", of: profile) != nil
            || profiles.option("aws_secret_access_key", of: profile) != nil
    }

    private func keys(ofSource name: String, _ place: String) async throws(CredentialsFailure) -> S3Credentials {
        switch name.lowercased() {
        case "environment":
            guard let access = environment.text("AWS_ACCESS_KEY_ID"),
                let secret = environment.text("AWS_SECRET_ACCESS_KEY")
            else {
                throw CredentialsFailure(
                    .retrieval,
                    "The \(place) has credential_source = Environment, but AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY "
                        + "are not both set")
            }
            return S3Credentials(
                accessKey: access, secretKey: secret, sessionToken: environment.text("AWS_SESSION_TOKEN"),
                provider: "env")
        case "ecscontainer":
            guard ContainerCredentials.isConfigured(environment) else {
                throw CredentialsFailure(
                    .retrieval,
                    "The \(place) has credential_source = EcsContainer, but this is no container with a role")
            }
            return try await ContainerCredentials(environment: environment, access: self.access).load()
        case "ec2instancemetadata":
            if InstanceMetadata.isDisabled(environment) {
                throw CredentialsFailure(
                    .retrieval,
                    "The \(place) has credential_source = Ec2InstanceMetadata, but AWS_EC2_METADATA_DISABLED is set")
            }
            do throws(CredentialsFailure) {
                return try await InstanceMetadata(environment, profiles, access: access).load()
            } catch {
                throw CredentialsFailure(
                    error.kind == .none ? .retrieval : error.kind,
                    "The credential_source of \(place) gave no keys: \(error.message)", mayGoBy: true)
            }
        default:
            throw CredentialsFailure(
                .invalidConfiguration,
                "The \(place) has an unknown credential_source; it is Environment, EcsContainer or Ec2InstanceMetadata")
        }
    }

    private func request(_ profile: String) throws(CredentialsFailure) -> RoleRequest {
        let place = profiles.place("role_arn", of: profile)
        if profiles.option("mfa_serial", of: profile) != nil {
            throw CredentialsFailure(
                .invalidConfiguration,
                "The \(profiles.place("mfa_serial", of: profile)) needs somebody to type a code, which an agent cannot; "
                    + "use a role without it, or credential_process")
        }
        let duration = profiles.option("duration_seconds", of: profile)
        if let duration, !(Int(duration).map { (900...43_200).contains($0) } ?? false) {
            throw CredentialsFailure(
                .invalidConfiguration,
                "The \(profiles.place("duration_seconds", of: profile)) must be a number from 900 to 43200")
        }
        return RoleRequest(
            arn: profiles.option("role_arn", of: profile) ?? "",
            sessionName: profiles.option("role_session_name", of: profile) ?? sessionName(), duration: duration,
            externalID: profiles.option("external_id", of: profile), place: "the \(place)")
    }

    private func service() throws(CredentialsFailure) -> SecurityTokenService {
        try SecurityTokenService(environment, profiles, region: region, access: access)
    }

    /// What CloudTrail shows for us where nothing is configured.
    private func sessionName() -> String { "safebackup-\(access.clock.now.microseconds / 1_000_000)" }
}
