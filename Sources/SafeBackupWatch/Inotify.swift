import Glibc
import SafeBackupSystem
import SystemPackage

/// The kernel's number of a watch. Numbers are not used again while a queue may still hold events of an old one.
struct WatchDescriptor: RawRepresentable, Hashable, Sendable {
    let rawValue: Int32
    init(rawValue: Int32) { self.rawValue = rawValue }
}

/// One event as the kernel queued it.
struct InotifyEvent: Sendable, Hashable {
    /// See: man 7 inotify.
    struct Mask: OptionSet, Sendable, Hashable {
        let rawValue: UInt32

        static let modify = Mask(rawValue: 0x2)
        static let attrib = Mask(rawValue: 0x4)
        static let closeWrite = Mask(rawValue: 0x8)
        static let open = Mask(rawValue: 0x20)
        static let movedFrom = Mask(rawValue: 0x40)
        static let movedTo = Mask(rawValue: 0x80)
        static let create = Mask(rawValue: 0x100)
        static let delete = Mask(rawValue: 0x200)
        static let deleteSelf = Mask(rawValue: 0x400)
        static let moveSelf = Mask(rawValue: 0x800)
        static let unmount = Mask(rawValue: 0x2000)
        static let overflow = Mask(rawValue: 0x4000)
        static let ignored = Mask(rawValue: 0x8000)
        static let onlyDirectory = Mask(rawValue: 0x100_0000)
        static let excludeUnlinked = Mask(rawValue: 0x400_0000)
        static let isDirectory = Mask(rawValue: 0x4000_0000)

        /// What a watched directory reports.
        static let watched: Mask = [
            .closeWrite, .modify, .attrib, .create, .delete, .movedFrom, .movedTo, .deleteSelf, .moveSelf,
            .excludeUnlinked, .onlyDirectory,
        ]
    }

    var watch: WatchDescriptor
    var mask: Mask
    /// Joins the two halves of a rename.
    var cookie: UInt32
    /// Of the entry of the watched directory; empty: the event is the directory's own.
    var leaf: [UInt8]

    init(watch: WatchDescriptor, mask: Mask, cookie: UInt32 = 0, leaf: [UInt8] = []) {
        self.watch = watch
        self.mask = mask
        self.cookie = cookie
        self.leaf = leaf
    }

    /// Bytes of the fixed part: wd, mask, cookie, len.
    static let headerSize = 16

    /// An event as `read` would give it, for what we queue ourselves.
    static func header(mask: Mask, cookie: UInt32) -> [UInt8] {
        [UInt32.max, mask.rawValue, cookie, 0].flatMap { withUnsafeBytes(of: $0, Array.init) }
    }

    /// Calls `body` with each event of a buffer that `read` filled, or several such buffers joined.
    static func parse(_ buffer: UnsafeRawBufferPointer, _ body: (InotifyEvent) -> Void) {
        var offset = 0
        while offset + headerSize <= buffer.count {
            let length = Int(buffer.loadUnaligned(fromByteOffset: offset + 12, as: UInt32.self))
            let start = offset + headerSize
            // The kernel never splits an event.
            guard start + length <= buffer.count else { return }
            body(
                InotifyEvent(
                    watch: WatchDescriptor(rawValue: buffer.loadUnaligned(fromByteOffset: offset, as: Int32.self)),
                    mask: Mask(rawValue: buffer.loadUnaligned(fromByteOffset: offset + 4, as: UInt32.self)),
                    cookie: buffer.loadUnaligned(fromByteOffset: offset + 8, as: UInt32.self),
                    // Padded with NULs.
                    leaf: Array(buffer[start..<(start + length)].prefix { $0 != 0 })))
            offset = start + length
        }
    }
}

/// An inotify instance. Watches go with it.
final class Inotify: Sendable {
    /// Readable when events wait.
    let descriptor: Descriptor

    /// `EMFILE`: `fs.inotify.max_user_instances` is reached. The corresponding C function is `inotify_init1`.
    init() throws(Errno) {
        descriptor = Descriptor(
            owning: try systemCall("inotify_init") { inotify_init1(Int32(IN_CLOEXEC) | Int32(IN_NONBLOCK)) })
    }

    /// Watches an open directory; the same directory gives the same number again. Goes through `/proc/self/fd`, because
    /// the call takes a path only: neither a link nor a long path can get in between.
    /// `ENOSPC`: `fs.inotify.max_user_watches` is reached. The corresponding C function is `inotify_add_watch`.
    func addWatch(
        _ directory: Descriptor, _ mask: InotifyEvent.Mask = .watched
    ) throws(Errno) -> WatchDescriptor {
        let path = Array("/proc/self/fd/\(directory.raw)".utf8)
        let number = try systemCall("inotify_add_watch") {
            withCString(path) { inotify_add_watch(descriptor.raw, $0, mask.rawValue) }
        }
        return WatchDescriptor(rawValue: number)
    }

    /// One that is gone is no error. The corresponding C function is `inotify_rm_watch`.
    func removeWatch(_ watch: WatchDescriptor) {
        // Ignored because the only failure is EINVAL: the kernel removed it first, with its directory.
        _ = inotify_rm_watch(descriptor.raw, watch.rawValue)
    }

    /// Fills `buffer` with whole events; 0 if none waits.
    func read(into buffer: UnsafeMutableRawBufferPointer) throws(Errno) -> Int {
        do {
            return try descriptor.read(into: buffer)
        } catch {
            if error == .wouldBlock || error == .resourceTemporarilyUnavailable { return 0 }
            throw error
        }
    }
}
