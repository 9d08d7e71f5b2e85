# The checksum of a layer's units: CRC-32, as zlib and zip have it.

from libc.stdint cimport uint32_t

cdef extern from * nogil:
    """
    #include <stddef.h>
    #include <stdint.h>
    static uint32_t ringblk_crc32_table[256];
    __attribute__((constructor)) static void ringblk_fill_crc32_table(void) {
        for (uint32_t byte = 0; byte < 256; byte++) {
            uint32_t value = byte;
            for (int bit = 0; bit < 8; bit++)
                value = value & 1 ? value >> 1 ^ 0xEDB88320u : value >> 1;
            ringblk_crc32_table[byte] = value;
        }
    }
    static inline uint32_t crc32(const void *data, size_t size) {
        const uint8_t *byte = data;
        uint32_t value = ~0u;
        while (size--)
            value = value >> 8 ^ ringblk_crc32_table[(value ^ *byte++) & 255];
        return ~value;
    }
    """
    uint32_t crc32(const void *data, size_t size_bytes)
