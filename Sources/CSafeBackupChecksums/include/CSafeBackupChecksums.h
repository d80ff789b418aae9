#pragma once
#include <stddef.h>
#include <stdint.h>

/// The reflected CRCs that S3 knows. Each begins with all bits set and is inverted at its end.
enum sb_crc_kind {
    /// Of IEEE 802.3, as in zlib.
    sb_crc_32 = 0,
    /// Of Castagnoli, as in iSCSI.
    sb_crc_32c = 1,
    /// Of the NVM Express specification, CRC-64/NVME.
    sb_crc_64nvme = 2,
};

/// The CRC of what `crc` is the CRC of (0: of nothing) and `length` bytes more. Any thread.
uint64_t sb_crc(enum sb_crc_kind kind, uint64_t crc, const void *bytes, size_t length);
/// The same without the processor's carry-less multiplication.
uint64_t sb_crc_portable(enum sb_crc_kind kind, uint64_t crc, const void *bytes, size_t length);
/// The CRC of A and then B, from the CRC of each, and the length of B.
uint64_t sb_crc_combine(enum sb_crc_kind kind, uint64_t first, uint64_t second, uint64_t second_length);
/// Whether this processor multiplies without carry.
int sb_crc_is_accelerated(void);
