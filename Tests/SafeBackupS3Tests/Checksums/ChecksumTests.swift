import Foundation
import SafeBackupS3
import SafeBackupSystem
import Testing

@Suite("Checksums")
struct ChecksumTests {
    struct Sums: Decodable, Sendable, CustomTestStringConvertible {
        struct Value: Decodable, Sendable {
            var hex: String
            var base64: String
        }

        var name: String
        var data: PatternData
        var expected: [String: Value]
        var testDescription: String { name }
    }

    struct Combination: Decodable, Sendable, CustomTestStringConvertible {
        struct Values: Decodable, Sendable {
            var first: String
            var second: String
            var whole: String
        }

        var name: String
        var first: PatternData
        var second: PatternData
        var expected: [String: Values]
        var testDescription: String { name }
    }

    struct Multipart: Decodable, Sendable, CustomTestStringConvertible {
        struct Expected: Decodable, Sendable {
            var partMd5Hex: [String]
            var etag: String
            var fullObject: [String: String]
            var composite: [String: String]
            var parts: [[String: String]]
        }

        var name: String
        var data: PatternData
        var partSize: Int
        var expected: Expected
        var testDescription: String { name }
    }

    @Test("Each algorithm gives the known values", arguments: try Vectors.read("checksums/checksums.json", Sums.self))
    func sums(_ vector: Sums) throws {
        let bytes = vector.data.bytes
        #expect(vector.expected.count == ChecksumAlgorithm.allCases.count)
        for (name, expected) in vector.expected {
            let algorithm = try #require(ChecksumAlgorithm(rawValue: name))
            let value = try value(algorithm, bytes)
            #expect(Base64.encode(value) == expected.base64, "\(name)")
            #expect(value.map { String(format: "%02x", $0) }.joined() == expected.hex, "\(name)")
            #expect(Base64.decode(expected.base64.utf8) == value)
        }
    }

    @Test(
        "The check of a whole follows from those of its parts",
        arguments: try Vectors.read("checksums/crc-combine.json", Combination.self))
    func combination(_ vector: Combination) throws {
        let (first, second) = (vector.first.bytes, vector.second.bytes)
        for (name, expected) in vector.expected {
            let kind = try #require(ChecksumAlgorithm(rawValue: name)?.crc)
            var whole = CRC(kind)
            first.withUnsafeBytes { whole.update($0) }
            #expect(Base64.encode(whole.bytes) == expected.first)
            var tail = CRC(kind)
            second.withUnsafeBytes { tail.update($0) }
            #expect(Base64.encode(tail.bytes) == expected.second)
            var onward = whole
            second.withUnsafeBytes { onward.update($0) }
            whole.append(tail, count: Int64(second.count))
            #expect(Base64.encode(whole.bytes) == expected.whole)
            #expect(onward == whole)
        }
    }

    @Test(
        "Parts give the ETag, the composite and the whole object's check of a multipart upload",
        arguments: try Vectors.read("checksums/multipart-etag.json", Multipart.self))
    func multipart(_ vector: Multipart) throws {
        let bytes = vector.data.bytes
        var parts = stride(from: 0, to: bytes.count, by: vector.partSize).map {
            Array(bytes[$0..<min($0 + vector.partSize, bytes.count)])
        }
        if parts.isEmpty { parts.append([]) }
        let md5 = try parts.map { try value(.md5, $0) }
        #expect(md5.map { $0.map { String(format: "%02x", $0) }.joined() } == vector.expected.partMd5Hex)
        let joined = try value(.md5, Array(md5.joined()))
        #expect("\"\(joined.map { String(format: "%02x", $0) }.joined())-\(parts.count)\"" == vector.expected.etag)
        for (name, expected) in vector.expected.fullObject {
            let kind = try #require(ChecksumAlgorithm(rawValue: name)?.crc)
            var whole = CRC(kind)
            for (index, part) in parts.enumerated() {
                var check = CRC(kind)
                part.withUnsafeBytes { check.update($0) }
                #expect(Base64.encode(check.bytes) == vector.expected.parts[index][name])
                whole.append(check, count: Int64(part.count))
            }
            #expect(Base64.encode(whole.bytes) == expected)
        }
        for (name, expected) in vector.expected.composite {
            let algorithm = try #require(ChecksumAlgorithm(rawValue: name))
            let values = try parts.map { try value(algorithm, $0) }
            #expect(Base64.encode(try value(algorithm, Array(values.joined()))) + "-\(parts.count)" == expected)
        }
    }

    @Test("The fast way gives what the tables give, at every length, offset and start", arguments: CRC.Kind.allCases)
    func fast(_ kind: CRC.Kind) {
        let data = PatternData(kind: "formula", size: 1_200, seed: 7).bytes
        data.withUnsafeBytes { all in
            for offset in 0..<3 {
                for length in 0..<1_100 {
                    let bytes = UnsafeRawBufferPointer(rebasing: all[offset..<(offset + length)])
                    var whole = CRC(kind)
                    whole.update(bytes)
                    var halves = CRC(kind)
                    halves.update(UnsafeRawBufferPointer(rebasing: bytes[..<(length / 2)]))
                    halves.update(UnsafeRawBufferPointer(rebasing: bytes[(length / 2)...]))
                    if whole.value != CRC.portable(kind, of: bytes) || halves != whole {
                        Issue.record("\(kind) differs at offset \(offset), length \(length)")
                    }
                }
            }
        }
    }

    @Test(
        "What is not Base64 is refused", arguments: ["A", "AB", "ABC", "AB=C", "A===", "====", "AB C", "AAAA=", "é==="])
    func base64(_ text: String) { #expect(Base64.decode(text.utf8) == nil) }

    private func value(_ algorithm: ChecksumAlgorithm, _ bytes: [UInt8]) throws -> [UInt8] {
        let buffer = PartBuffer(capacity: bytes.count)
        buffer.fill { memory in
            bytes.withUnsafeBytes { memory.copyMemory(from: $0) }
            return bytes.count
        }
        return try buffer.withBytes { bytes throws in try algorithm.value(of: bytes) }
    }
}
