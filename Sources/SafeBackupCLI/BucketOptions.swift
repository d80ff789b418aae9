import ArgumentParser
import FoundationEssentials
import SafeBackupAgent
import SafeBackupConfiguration
import SafeBackupCore
import SafeBackupSystem

/// Where a bucket of the command line is. Keys are never arguments, which everybody on the machine may read.
struct BucketOptions: ParsableArguments {
    @Option(
        name: .long,
        help: ArgumentHelp(
            "Of s3://…: the server, where it is not that of AWS, as https://s3.example.com.", valueName: "url"))
    var endpoint: String?

    @Option(name: .long, help: ArgumentHelp("Of s3://…: the region of the bucket.", valueName: "name"))
    var region: String?

    var isEmpty: Bool { endpoint == nil && region == nil }

    /// The backup in a bucket, as the agent's configuration knows it, else as these options tell.
    func open(_ url: [UInt8], of agent: AgentOptions) throws(SafeBackupError) -> BucketBackup {
        if isEmpty, let known = try agent.bucket(url) { return try BucketBackup(known) }
        return try BucketBackup(try bucket(url))
    }

    /// What was named, with nothing else than these options and the environment say.
    func bucket(_ url: [UInt8]) throws(SafeBackupError) -> Configuration.S3 {
        do throws(ConfigurationFault) {
            var bucket = Configuration.S3(try BucketURL.read(url))
            bucket.endpoint = try endpoint.map { text throws(ConfigurationFault) in
                try ServerURL.read(Array(text.utf8)).text
            }
            bucket.region = region
            return bucket
        } catch {
            throw Preflight.refusal("\(printable(url)) \(error.message)")
        }
    }
}
