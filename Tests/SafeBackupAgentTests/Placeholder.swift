import Testing

@testable import SafeBackupAgent
