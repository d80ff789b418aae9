import Testing

/// The built program against real directories: started, killed, restarted, and what it left compared.
///
/// One test at a time, because each has agents of its own on a machine of perhaps two cores.
/// The suites below it are one file each.
@Suite("The program, end to end", .serialized)
enum EndToEnd {}
