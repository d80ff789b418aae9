// What the public types are made of, so that `import SafeBackup` is all that a program needs: paths (`FilePath`,
// `RelativePath`), `ByteCount`, `SafeBackupError`, and the cleaner with its configuration, plan and report.
@_exported public import SafeBackupCapacity
@_exported public import SafeBackupCore
@_exported public import SystemPackage
