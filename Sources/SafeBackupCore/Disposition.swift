/// What a failure means for the job that met it.
public enum Disposition: String, Sendable, Hashable, CaseIterable {
    /// Goes by: try again with back-off; stuck when the retries are used up.
    case transient
    /// The other side asks for fewer requests.
    case throttled
    /// Credentials are missing, wrong or expired: the destination is held, not the file.
    case auth
    /// Refused, and trying again changes nothing: stuck at once; tried again on change, daily, or by a person.
    case permanent
    /// Nothing is at the source's path: once that is confirmed, the name ends.
    case sourceGone
    /// The destination is away: its jobs wait without counting attempts.
    case destinationUnavailable
    /// The destination has no room: jobs that grow the backup wait without counting attempts.
    case destinationFull
}
