package import SafeBackupCore
import SafeBackupSystem

extension StateStore {
    /// Whether anything is stored there.
    package func hasCopies(_ destination: DestinationID) throws(SafeBackupError) -> Bool {
        try read { (connection) throws(SafeBackupError) in
            let select = try connection.statement("SELECT 1 FROM copy WHERE destination_id = ? LIMIT 1")
            defer { select.reset() }
            return try select.bind(destination.rawValue).step()
        }
    }

    /// Makes the pending jobs of the destination due that failed last for this reason; how many. Their attempts stay.
    package func retryNow(
        _ destination: DestinationID, failedWith code: SafeBackupError.Code
    ) throws(SafeBackupError) -> Int {
        let now = clock.now
        return try write { (connection) throws(SafeBackupError) in
            try connection.statement(
                """
                UPDATE job SET not_before = ?, backoff_until = NULL
                WHERE destination_id = ? AND state = 'pending' AND last_error_code = ? AND not_before > ?
                """
            ).bind(now).bind(destination.rawValue).bind(text: code.rawValue).bind(now).run()
            return connection.changes
        }
    }
}
