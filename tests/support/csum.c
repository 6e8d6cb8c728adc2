/* The checksum of vx_csum.h beside RFC 1071's text, for tests/unit/test_checksum.py. */
#include "vx_csum.h"

uint16_t checksum_sum(const uint8_t *p, size_t len) { return vx_be16(vx_csum_fold(vx_csum_add(p, len, 0))); }

/* The first length up to max_len at which the two differ, or -1. */
long first_wrong(const uint8_t *p, size_t max_len)
{
    uint64_t naive = 0;
    for (size_t len = 0; len <= max_len; len++) {
        if (len)
            naive += len % 2 ? p[len - 1] << 8 : p[len - 1];
        uint64_t folded = naive;
        while (folded >> 16)
            folded = (folded & 0xffff) + (folded >> 16);
        if (checksum_sum(p, len) != folded)
            return (long)len;
    }
    return -1;
}
