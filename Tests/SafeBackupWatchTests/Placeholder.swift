import Testing

@testable import SafeBackupWatch
