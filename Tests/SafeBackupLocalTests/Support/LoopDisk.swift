import Glibc
import SafeBackupCore
import SafeBackupLocal
import SafeBackupSystem
import SystemPackage

/// A small file system in an image file, mounted by a loop device; unmounted and removed with the object.
final class LoopDisk: Sendable {
    let image: String
    let mountPoint: String

    /// Whether this machine lets us do that: root, loop devices, mkfs. Tried once, really.
    static let isUsable: Bool = {
        guard geteuid() == 0, let top = try? Bench.temporaryDirectory() else { return false }
        defer { remove(tree: top) }
        do {
            _ = try LoopDisk(in: top, mebibytes: 8)
            return true
        } catch {
            return false
        }
    }()

    static let skipReason = "SKIPPED: needs root, loop devices and mkfs.ext4"

    init(in top: String, mebibytes: Int) throws {
        image = top + "/disk.img"
        mountPoint = top + "/disk"
        let file = open(image, O_RDWR | O_CREAT | O_TRUNC, 0o600)
        guard file >= 0, ftruncate(file, off_t(mebibytes) << 20) == 0 else {
            throw Bench.Failure(what: "image \(errno)")
        }
        close(file)
        try run("mkfs.ext4", "-q", "-F", "-m", "0", image)
        try mount()
    }

    /// A copy of another disk's image as it is now: what a power cut would leave of it.
    init(copying other: LoopDisk, as name: String) throws {
        image = other.image + "." + name
        mountPoint = other.mountPoint + "." + name
        try run("cp", "--sparse=always", other.image, image)
    }

    /// No commit of the journal by itself, so that only what was flushed is on the image.
    func mount(_ options: String = "commit=300") throws {
        try make(directory: mountPoint)
        try run("mount", "-o", "loop," + options, image, mountPoint)
    }

    func unmount() { try? run("umount", mountPoint) }

    deinit {
        try? run("umount", "-q", "-l", mountPoint)
        unlink(image)
        rmdir(mountPoint)
    }
}

/// Runs a program of the system to its end; what it says is dropped.
func run(_ program: String, _ arguments: String...) throws {
    var vector: [UnsafeMutablePointer<CChar>?] = ([program] + arguments).map { strdup($0) } + [nil]
    defer { vector.forEach { free($0) } }
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    for descriptor in [Int32(0), 1, 2] {
        posix_spawn_file_actions_addopen(&actions, descriptor, "/dev/null", O_RDWR, 0)
    }
    var path = strdup("PATH=/usr/sbin:/usr/bin:/sbin:/bin")
    defer { free(path) }
    var environment = [path, nil]
    path = environment[0]
    var process = pid_t()
    let failure = posix_spawnp(&process, program, &actions, nil, &vector, &environment)
    guard failure == 0 else { throw Bench.Failure(what: "\(program): \(failure)") }
    var status: Int32 = 0
    while waitpid(process, &status, 0) < 0 && errno == EINTR {}
    guard status == 0 else { throw Bench.Failure(what: "\(program) \(arguments): \(status)") }
}
