// Saves files to a bucket, all at once:
//
//     ExampleS3Session BUCKET PREFIX FILE...
//
// A file PATH is saved as PREFIX and its last component. Keys, region and endpoint are those that AWS's own programs
// find: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION, AWS_ENDPOINT_URL, ~/.aws, or a role.

import Glibc
import SafeBackup

let arguments = Array(CommandLine.arguments.dropFirst())
guard arguments.count > 2 else {
    print("usage: ExampleS3Session BUCKET PREFIX FILE...")
    exit(2)
}

var configuration = S3BackupConfiguration(bucket: arguments[0], prefix: arguments[1])
configuration.concurrency = 32

do {
    let session = try await S3BackupSession(configuration)
    let failures = await withTaskGroup(of: BackupSessionError?.self) { group in
        for file in arguments.dropFirst(2) {
            group.addTask {
                let path = FilePath(file)
                do throws(BackupSessionError) {
                    try await session.save(path, as: path.lastComponent?.string ?? "")
                    // Printed only now: the server has confirmed the object.
                    print("saved \(file)")
                    return nil
                } catch {
                    return error
                }
            }
        }
        var failures: [BackupSessionError] = []
        for await case let failure? in group { failures.append(failure) }
        return failures
    }
    for failure in failures { print(failure) }
    await session.close()
    exit(failures.isEmpty ? 0 : 1)
} catch {
    print(error)
    exit(1)
}
