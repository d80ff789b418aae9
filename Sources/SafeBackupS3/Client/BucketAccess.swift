package import SafeBackupCore
package import SafeBackupSystem

/// Everything that leads to one bucket: how requests leave this machine, where they go, with which keys they are signed
/// and what they ask for.
package struct BucketAccess: Sendable {
    package var endpoint: EndpointSettings
    /// Its concurrency is the client's.
    package var transport = TransportSettings()
    package var client: S3ClientSettings
    /// Keys that are given; `nil`: those that AWS's own programs would find.
    package var keys: S3Credentials?
    /// Of the files that AWS's own programs share; `nil`: the one that the environment names, or `default`.
    package var profile: String?

    package init(bucket: String) {
        endpoint = EndpointSettings(bucket: bucket)
        client = S3ClientSettings(bucket: bucket)
    }

    /// A client of the bucket, and the source of its keys. Asks no server. Blocks: it reads the shared files.
    ///
    /// - Parameters:
    ///   - io: its threads may block.
    ///   - keysNotice: told of keys that could not be replaced ahead of their end.
    ///   - notice: told of what the client does by itself.
    /// - Throws: `invalidConfiguration` for what cannot work, `exhausted` without a thread for the transport.
    package func open(
        environment: AWSEnvironment = .current(), io: ThreadExecutor, clock: WallClock = .system,
        keysNotice: @escaping @Sendable (SafeBackupError) -> Void = { _ in },
        notice: @escaping @Sendable (S3Notice) -> Void = { _ in }
    ) throws(SafeBackupError) -> (client: S3Client, transport: CurlTransport, keys: any CredentialsSource) {
        let place = try Endpoint(endpoint, environment: environment, profiles: profiles(environment))
        var settings = transport
        settings.concurrency = client.maxConnections
        let curl = try CurlTransport(settings)
        let source: any CredentialsSource
        if let keys {
            source = FixedCredentials(keys)
        } else {
            let chain = CredentialsChain(
                CredentialsChain.Settings(profile: profile, region: endpoint.region), environment: environment,
                transport: curl, io: io, clock: clock)
            source = CachedCredentials(chain, clock: clock, notice: keysNotice)
        }
        let client = try S3Client(
            client, transport: curl, credentials: source,
            locate: { (region) throws(SafeBackupError) in try place.address(in: region) }, clock: clock, notice: notice)
        return (client, curl, source)
    }

    private func profiles(_ environment: AWSEnvironment) -> AWSProfiles? {
        do throws(CredentialsFailure) {
            return try AWSProfiles(environment, profile: profile)
        } catch {
            return nil  // ignored because it is told when keys are looked for
        }
    }
}
