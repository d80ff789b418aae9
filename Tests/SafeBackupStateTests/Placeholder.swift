import Testing

@testable import SafeBackupState
