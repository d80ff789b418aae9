import SafeBackupSystem
import SystemPackage

#if canImport(Glibc)
    import Glibc
#endif

/// A journalled ext4 on an image file, mounted. Its bench unmounts it.
final class LoopDisk {
    private(set) var image: FilePath
    let mountPoint: FilePath
    private var isMounted = false

    /// Makes and mounts a new one. `mebibytes` is its size, `blockSize` in bytes.
    init(in directory: FilePath, named name: String, mebibytes: Int, blockSize: Int = 4096) throws {
        image = directory.appending("\(name).image")
        mountPoint = directory.appending(name)
        try command(["truncate", "-s", FilePath("\(mebibytes)M"), image])
        // No reserved blocks: a full disk is then full for root too.
        try command([
            "mkfs.ext4", "-q", "-F", "-m", "0", "-b", FilePath("\(blockSize)"), "-E", "lazy_itable_init=0", image,
        ])
        try command(["mkdir", "-p", mountPoint])
        try mount()
        try command(["rm", "-rf", mountPoint.appending("lost+found")])
    }

    func mount() throws {
        if isMounted { return }
        // No commit by time: what is on the disk is then what the program itself had flushed.
        try command(["mount", "-o", "loop,commit=300", image, mountPoint])
        isMounted = true
    }

    func unmount() throws {
        guard isMounted else { return }
        try command(["umount", mountPoint])
        isMounted = false
    }

    /// What a power cut would leave now: the blocks that reached the disk, without the page cache.
    /// The caller sees to it that nothing is written meanwhile.
    func copyBlocks() throws -> FilePath {
        let copy = image.removingLastComponent().appending("\(mountPoint.lastComponent?.string ?? "disk").cut")
        try command(["cp", "--sparse=always", "--", image, copy])
        return copy
    }

    /// Mounts another image of this disk in the place of the first.
    func exchange(for other: FilePath) throws {
        try unmount()
        image = other
        try mount()
    }

    func remount(readOnly: Bool) throws {
        try command(["mount", "-o", readOnly ? "remount,ro" : "remount,rw", mountPoint])
    }

    /// Whether this machine lets us mount one.
    static let isAvailable: Bool = {
        guard geteuid() == 0 else { return false }
        do {
            _ = try Bench().makeDisk("probe", mebibytes: 8)
            return true
        } catch {
            return false
        }
    }()
}
