import Testing

@testable import SafeBackupSystem
