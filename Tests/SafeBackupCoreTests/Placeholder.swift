import Testing

@testable import SafeBackupCore
