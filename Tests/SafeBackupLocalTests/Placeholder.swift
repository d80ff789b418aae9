import Testing

@testable import SafeBackupLocal
