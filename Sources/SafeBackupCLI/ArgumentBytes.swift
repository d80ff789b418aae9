import ArgumentParser
import SafeBackupConfiguration
import SafeBackupCore

/// An argument as the bytes that the shell gave us. A path need not be UTF-8, but the parser knows only `String`:
/// bytes that are not UTF-8 travel through it as scalars of a private range, one a byte.
struct ArgumentBytes: ExpressibleByArgument, Sendable {
    let bytes: [UInt8]

    init(_ bytes: [UInt8]) { self.bytes = bytes }

    /// U+10FF00 + byte; an argument that holds such a scalar itself has it escaped too, so that nothing is ambiguous.
    private static let escapes: ClosedRange<UInt32> = 0x10_FF00...0x10_FFFF

    init?(argument: String) {
        var bytes: [UInt8] = []
        for scalar in argument.unicodeScalars {
            if Self.escapes.contains(scalar.value) {
                bytes.append(UInt8(scalar.value & 0xFF))
            } else {
                bytes.append(contentsOf: UTF8.encode(scalar) ?? UTF8.encodedReplacementCharacter)
            }
        }
        self.bytes = bytes
    }

    /// As a prefix of a source, with the rules of a configuration's.
    func prefix() throws(SafeBackupError) -> RelativePath {
        do throws(ConfigurationFault) {
            if bytes.isEmpty { throw ConfigurationFault("is empty; leave it out for the destination's top") }
            return try RelativePath.read(RelativePath(unchecked: bytes).written)
        } catch {
            throw SafeBackupError(
                .invalidConfiguration, "--prefix: '\(printable(bytes))' \(error.message)", disposition: .permanent)
        }
    }

    /// The process's arguments without the program's name, escaped.
    static func processArguments() -> [String] {
        (1..<max(1, Int(CommandLine.argc))).compactMap { index in
            CommandLine.unsafeArgv[index].map { pointer in
                escaping(UnsafeBufferPointer(start: pointer, count: length(pointer)).map(UInt8.init(bitPattern:)))
            }
        }
    }

    private static func length(_ pointer: UnsafePointer<CChar>) -> Int {
        var count = 0
        while pointer[count] != 0 { count += 1 }
        return count
    }

    static func escaping(_ bytes: [UInt8]) -> String {
        var text = ""
        var parser = UTF8.ForwardParser()
        var iterator = bytes.makeIterator()
        var rest = bytes[...]
        func escape(_ count: Int) {
            for byte in rest.prefix(count) {
                if let scalar = Unicode.Scalar(escapes.lowerBound + UInt32(byte)) { text.unicodeScalars.append(scalar) }
            }
        }
        while true {
            switch parser.parseScalar(from: &iterator) {
            case .valid(let encoded):
                let scalar = UTF8.decode(encoded)
                if escapes.contains(scalar.value) { escape(encoded.count) } else { text.unicodeScalars.append(scalar) }
                rest = rest.dropFirst(encoded.count)
            case .error(let length):
                escape(length)
                rest = rest.dropFirst(length)
            case .emptyInput: return text
            }
        }
    }
}
