import SafeBackupCore
import SafeBackupSystem
import SystemPackage
import Glibc

/// Finds out what a file system can do by trying it, in the destination's staging area.
enum Probe {
    /// Leaves nothing behind. Throws when the directory cannot be written at all.
    static func run(in staging: Descriptor) throws(Errno) -> Capabilities {
        let names = ["probe-a", "probe-b", "probe-c"].map { Array($0.utf8) }
        // What an earlier probe left when the power failed.
        for name in names { try removeIfThere(name, in: staging) }
        do throws(Errno) {
            let found = try probe(in: staging, names)
            for name in names { try removeIfThere(name, in: staging) }
            return found
        } catch {
            for name in names { discard(name, in: staging) }
            throw error
        }
    }

    private static func probe(in staging: Descriptor, _ names: [[UInt8]]) throws(Errno) -> Capabilities {
        let file = try staging.open(names[0], O_RDWR | O_CREAT | O_EXCL)
        try file.writeAll(Array("safebackup".utf8))
        var found = Capabilities()
        found.timeStep = try timeStep(of: file)
        found.hardLinks = try isPossible { () throws(Errno) in try staging.link(names[0], to: staging, names[1]) }
        found.symbolicLinks = try isPossible { () throws(Errno) in
            try staging.makeSymbolicLink(names[2], target: names[0])
        }
        found.extendedAttributes = try isPossible { () throws(Errno) in
            try file.setExtendedAttribute(ExtendedAttribute(name: Array("user.safebackup.probe".utf8), value: [1]))
        }
        do {
            _ = try staging.status(of: Array("PROBE-A".utf8))
            found.foldsCase = true
        } catch {
            if error != .noSuchFileOrDirectory { throw error }
        }
        found.nameLimit = try nameLimit(in: staging)
        return found
    }

    /// Sets a time of an odd second with nine different digits, and looks at what the file system made of it.
    private static func timeStep(of file: Descriptor) throws(Errno) -> Int64 {
        let wanted = FileTime(seconds: 1_000_000_001, nanoseconds: 987_654_321)
        try file.setModified(wanted)
        let got = try file.status().fingerprint.mtime
        if got == wanted { return 1 }
        if got.seconds != wanted.seconds { return 2_000_000_000 }
        var step: Int64 = 1
        while step < 1_000_000_000 && got.remainder % (step * 10) == 0 { step *= 10 }
        return step
    }

    /// The longest name that can really be made: encrypting layers take less than statfs says.
    private static func nameLimit(in staging: Descriptor) throws(Errno) -> Int {
        let told = try VolumeStatistics(staging).nameLimit
        for limit in [told, 255, 143, 100] where limit > 0 && limit <= max(told, 100) {
            let name = [UInt8](repeating: UInt8(ascii: "n"), count: limit)
            do {
                _ = try staging.open(name, O_WRONLY | O_CREAT)
                try removeIfThere(name, in: staging)
                return limit
            } catch {
                if error != .fileNameTooLong && error != .invalidArgument { throw error }
            }
        }
        return 64
    }

    private static func isPossible(_ attempt: () throws(Errno) -> Void) throws(Errno) -> Bool {
        do {
            try attempt()
            return true
        } catch {
            let refusals: [Errno] = [
                .notPermitted, .notSupported, .noFunction, .invalidArgument, .tooManyLinks, .permissionDenied,
            ]
            if refusals.contains(error) { return false }
            throw error
        }
    }

    private static func discard(_ name: [UInt8], in staging: Descriptor) {
        do {
            try staging.remove(name)
        } catch {
            // Ignored because the first error is the one that matters, and staging is emptied at each start.
        }
    }

    private static func removeIfThere(_ name: [UInt8], in staging: Descriptor) throws(Errno) {
        do {
            try staging.remove(name)
        } catch {
            if error != .noSuchFileOrDirectory { throw error }
        }
    }
}
