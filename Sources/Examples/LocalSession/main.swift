// Saves files to a directory, all at once, and keeps room on its disk:
//
//     ExampleLocalSession BACKUP FILE...
//
// A file PATH is saved as its last component. Run it again to replace the copies.

import Glibc
import SafeBackup

let arguments = CommandLine.arguments.dropFirst()
guard let root = arguments.first, arguments.count > 1 else {
    print("usage: ExampleLocalSession BACKUP FILE...")
    exit(2)
}

var configuration = LocalBackupConfiguration(rootDirectory: FilePath(root))
configuration.freeSpaceThreshold = .mebibytes(16)
configuration.freeSpaceTarget = .mebibytes(32)
configuration.cleaning.removesEmptyDirectories = true
configuration.cleaning.onEvent = { event in
    if case .deletedFile(let path, let bytes) = event { print("removed \(path), \(ByteCount(bytes))") }
}

do {
    let session = try await LocalBackupSession(configuration)
    // Tasks that save at the same time share the waits for the disk.
    let failures = await withTaskGroup(of: BackupSessionError?.self) { group in
        for file in arguments.dropFirst() {
            group.addTask {
                let path = FilePath(file)
                do throws(BackupSessionError) {
                    try await session.save(path, as: path.lastComponent?.string ?? "")
                    // Printed only now: from here on the copy survives a power cut.
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
    do {
        try await session.waitForCompletion(timeout: .seconds(600))
    } catch BackupSessionError.savesFailed {
        // Printed above.
    }
    await session.close()
    exit(failures.isEmpty ? 0 : 1)
} catch {
    print(error)
    exit(1)
}
