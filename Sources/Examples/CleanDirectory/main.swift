// Removes the oldest files of a directory until they hold no more than a number of MiB:
//
//     ExampleCleanDirectory DIRECTORY MEBIBYTES

import Glibc
import SafeBackup

let arguments = CommandLine.arguments
guard arguments.count == 3, let size = Int64(arguments[2]) else {
    print("usage: ExampleCleanDirectory DIRECTORY MEBIBYTES")
    exit(2)
}

var configuration = CleaningConfiguration(CleaningLimits(maxSize: .mebibytes(size)))
configuration.removesEmptyDirectories = true
configuration.onEvent = { event in
    switch event {
    case .deletedFile(let path, _): print("removed \(path)")
    case .failed(let problem): print("\(problem.path) \(problem.reason)")
    default: break
    }
}

do {
    let cleaner = try BackupCleaner(FilePath(arguments[1]), configuration)
    // The plan can be shown, and executed, by itself too: `cleaner.plan()`, `cleaner.execute(plan)`.
    let report = try await cleaner.cleanInBackground()
    print("removed \(report.files) files, \(ByteCount(report.freed))")
    if let failure = report.failure {
        print(failure.message)
        exit(1)
    }
} catch {
    print(error)
    exit(1)
}
