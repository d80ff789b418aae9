import CSafeBackupChecksums

/// A cyclic redundancy check of bytes as they come; a value, copied freely. 10 GB/s and more where the processor
/// multiplies without carry, 1.5 GB/s elsewhere.
package struct CRC: Sendable, Hashable {
    package enum Kind: Sendable, Hashable, CaseIterable {
        case crc32, crc32c, crc64nvme

        fileprivate var raw: sb_crc_kind {
            switch self {
            case .crc32: sb_crc_32
            case .crc32c: sb_crc_32c
            case .crc64nvme: sb_crc_64nvme
            }
        }

        /// Bytes of a value.
        package var width: Int { self == .crc64nvme ? 8 : 4 }
    }

    package let kind: Kind
    package private(set) var value: UInt64

    /// Of nothing, or going on from a value.
    package init(_ kind: Kind, value: UInt64 = 0) {
        self.kind = kind
        self.value = value
    }

    package mutating func update(_ bytes: UnsafeRawBufferPointer) {
        value = sb_crc(kind.raw, value, bytes.baseAddress, bytes.count)
    }

    /// Goes on with bytes whose CRC is known already.
    package mutating func append(_ other: CRC, count: Int64) {
        precondition(kind == other.kind && count >= 0, "only CRCs of one kind are combined")
        value = sb_crc_combine(kind.raw, value, other.value, UInt64(count))
    }

    /// Big-endian, as S3 wants them.
    package var bytes: [UInt8] {
        (0..<kind.width).map { UInt8(truncatingIfNeeded: value >> UInt64(8 * (kind.width - 1 - $0))) }
    }

    /// Without the processor's help, to compare with.
    package static func portable(_ kind: Kind, of bytes: UnsafeRawBufferPointer) -> UInt64 {
        sb_crc_portable(kind.raw, 0, bytes.baseAddress, bytes.count)
    }
}
