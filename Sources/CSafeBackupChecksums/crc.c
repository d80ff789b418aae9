#include "CSafeBackupChecksums.h"
#include <pthread.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#define SB_FOLDS 1
#elif defined(__aarch64__)
#include <arm_neon.h>
#if __has_include(<sys/auxv.h>)
#include <sys/auxv.h>
#endif
#define SB_FOLDS 1
#endif

// Polynomials are reflected: the lowest bit of a register stands for the highest power.
struct crc {
    uint64_t polynomial;
    int width;
    // Slicing by 8: table[k][b] is the CRC of the byte b with k zero bytes after it.
    uint64_t table[8][256];
    // x^(64+D-1) and x^(D-1) modulo the polynomial, for D of 512 and 128 bits; see fold().
    uint64_t far[2], near[2];
};

static struct crc crcs[3] = {
    {.polynomial = 0xedb88320u, .width = 32},
    {.polynomial = 0x82f63b78u, .width = 32},
    {.polynomial = 0x9a6c9329ac4bc9b5u, .width = 64},
};
static int is_accelerated;

// x^exponent modulo the polynomial, in the width's register.
static uint64_t power_slow(const struct crc *crc, unsigned exponent) {
    uint64_t value = 1ull << (crc->width - 1);
    while (exponent--) value = (value >> 1) ^ (value & 1 ? crc->polynomial : 0);
    return value;
}

static void prepare(void) {
    for (int kind = 0; kind < 3; kind++) {
        struct crc *crc = &crcs[kind];
        for (unsigned byte = 0; byte < 256; byte++) {
            uint64_t value = byte;
            for (int bit = 0; bit < 8; bit++) value = (value >> 1) ^ (value & 1 ? crc->polynomial : 0);
            crc->table[0][byte] = value;
        }
        for (unsigned byte = 0; byte < 256; byte++)
            for (int k = 1; k < 8; k++) {
                uint64_t value = crc->table[k - 1][byte];
                crc->table[k][byte] = (value >> 8) ^ crc->table[0][value & 255];
            }
        int shift = 64 - crc->width;
        crc->far[0] = power_slow(crc, 64 + 512 - 1) << shift;
        crc->far[1] = power_slow(crc, 512 - 1) << shift;
        crc->near[0] = power_slow(crc, 64 + 128 - 1) << shift;
        crc->near[1] = power_slow(crc, 128 - 1) << shift;
    }
#if defined(__x86_64__)
    is_accelerated = __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1");
#elif defined(__aarch64__) && defined(AT_HWCAP)
    is_accelerated = (getauxval(AT_HWCAP) & (1 << 4)) != 0;  // HWCAP_PMULL
#endif
}

static const struct crc *get(enum sb_crc_kind kind) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, prepare);
    return &crcs[kind];
}

static uint64_t load(const uint8_t *bytes) {
    uint64_t value;
    memcpy(&value, bytes, 8);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    value = __builtin_bswap64(value);
#endif
    return value;
}

// The register after `length` bytes more.
static uint64_t slice(const struct crc *crc, uint64_t state, const uint8_t *bytes, size_t length) {
    for (; length >= 8; bytes += 8, length -= 8) {
        state ^= load(bytes);
        state = crc->table[7][state & 255] ^ crc->table[6][state >> 8 & 255] ^ crc->table[5][state >> 16 & 255] ^
                crc->table[4][state >> 24 & 255] ^ crc->table[3][state >> 32 & 255] ^
                crc->table[2][state >> 40 & 255] ^ crc->table[1][state >> 48 & 255] ^ crc->table[0][state >> 56];
    }
    for (; length; bytes++, length--) state = (state >> 8) ^ crc->table[0][(state ^ *bytes) & 255];
    return state;
}

#ifdef SB_FOLDS
// 16 bytes of the message are a polynomial H·x^64 + L, H in the first 8 bytes. Multiplied by x^D, it is congruent to
// H·(x^(64+D) mod P) + L·(x^D mod P), which is short enough to be added to the 16 bytes that lie D bits further on. The
// product of two reflected registers stands one bit too low in 128 bits, so the constants have one power less.
// See: Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction", Intel, 2009.
#if defined(__x86_64__)
typedef __m128i vector;
#define SB_TARGET __attribute__((target("pclmul,sse4.1")))
SB_TARGET static inline vector vload(const uint8_t *bytes) { return _mm_loadu_si128((const __m128i *)bytes); }
SB_TARGET static inline vector vpair(uint64_t low, uint64_t high) { return _mm_set_epi64x((int64_t)high, (int64_t)low); }
SB_TARGET static inline vector vxor(vector a, vector b) { return _mm_xor_si128(a, b); }
SB_TARGET static inline vector fold(vector value, vector constants, vector next) {
    vector low = _mm_clmulepi64_si128(value, constants, 0x00);
    vector high = _mm_clmulepi64_si128(value, constants, 0x11);
    return _mm_xor_si128(_mm_xor_si128(low, high), next);
}
SB_TARGET static inline void vstore(uint8_t *bytes, vector value) { _mm_storeu_si128((__m128i *)bytes, value); }
#else
typedef uint64x2_t vector;
#define SB_TARGET __attribute__((target("aes")))
SB_TARGET static inline vector vload(const uint8_t *bytes) { return vreinterpretq_u64_u8(vld1q_u8(bytes)); }
SB_TARGET static inline vector vpair(uint64_t low, uint64_t high) {
    return vcombine_u64(vcreate_u64(low), vcreate_u64(high));
}
SB_TARGET static inline vector vxor(vector a, vector b) { return veorq_u64(a, b); }
SB_TARGET static inline vector fold(vector value, vector constants, vector next) {
    poly128_t low = vmull_p64((poly64_t)vgetq_lane_u64(value, 0), (poly64_t)vgetq_lane_u64(constants, 0));
    poly128_t high = vmull_p64((poly64_t)vgetq_lane_u64(value, 1), (poly64_t)vgetq_lane_u64(constants, 1));
    return veorq_u64(veorq_u64(vreinterpretq_u64_p128(low), vreinterpretq_u64_p128(high)), next);
}
SB_TARGET static inline void vstore(uint8_t *bytes, vector value) { vst1q_u8(bytes, vreinterpretq_u8_u64(value)); }
#endif

SB_TARGET static uint64_t folded(const struct crc *crc, uint64_t state, const uint8_t *bytes, size_t length) {
    vector far = vpair(crc->far[0], crc->far[1]);
    vector near = vpair(crc->near[0], crc->near[1]);
    vector a = vxor(vload(bytes), vpair(state, 0));
    vector b = vload(bytes + 16), c = vload(bytes + 32), d = vload(bytes + 48);
    for (bytes += 64, length -= 64; length >= 64; bytes += 64, length -= 64) {
        a = fold(a, far, vload(bytes));
        b = fold(b, far, vload(bytes + 16));
        c = fold(c, far, vload(bytes + 32));
        d = fold(d, far, vload(bytes + 48));
    }
    a = fold(a, near, b);
    a = fold(a, near, c);
    a = fold(a, near, d);
    for (; length >= 16; bytes += 16, length -= 16) a = fold(a, near, vload(bytes));
    // What is left is congruent to everything so far, and short enough for the tables.
    uint8_t rest[16];
    vstore(rest, a);
    return slice(crc, slice(crc, 0, rest, 16), bytes, length);
}
#endif

static uint64_t inverted(const struct crc *crc, uint64_t value) {
    return crc->width == 64 ? ~value : ~value & 0xffffffffu;
}

uint64_t sb_crc_portable(enum sb_crc_kind kind, uint64_t value, const void *bytes, size_t length) {
    const struct crc *crc = get(kind);
    return inverted(crc, slice(crc, inverted(crc, value), bytes, length));
}

uint64_t sb_crc(enum sb_crc_kind kind, uint64_t value, const void *bytes, size_t length) {
#ifdef SB_FOLDS
    const struct crc *crc = get(kind);
    if (is_accelerated && length >= 128) return inverted(crc, folded(crc, inverted(crc, value), bytes, length));
#endif
    return sb_crc_portable(kind, value, bytes, length);
}

int sb_crc_is_accelerated(void) {
    get(sb_crc_32);
    return is_accelerated;
}

// a·b modulo the polynomial.
static uint64_t multiply(const struct crc *crc, uint64_t a, uint64_t b) {
    uint64_t product = 0;
    for (uint64_t bit = 1ull << (crc->width - 1); bit; bit >>= 1) {
        if (a & bit) product ^= b;
        b = (b >> 1) ^ (b & 1 ? crc->polynomial : 0);
    }
    return product;
}

uint64_t sb_crc_combine(enum sb_crc_kind kind, uint64_t first, uint64_t second, uint64_t second_length) {
    const struct crc *crc = get(kind);
    // x^(8·length), by squaring.
    uint64_t power = 1ull << (crc->width - 1), square = power_slow(crc, 8);
    for (; second_length; second_length >>= 1, square = multiply(crc, square, square))
        if (second_length & 1) power = multiply(crc, power, square);
    return multiply(crc, power, first) ^ second;
}
