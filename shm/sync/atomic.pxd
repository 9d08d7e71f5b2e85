# C11-style atomics on plain memory, as the compiler's builtins take them.
#
# Every use elsewhere names its partner: a release store pairs with the acquire load that
# reads it, a full fence with the fence of the other side of a "publish, then look" pair.

from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t

cdef extern from * nogil:
    """
    #include <stdint.h>
    #define RINGBLK_ATOMIC(bits) \\
        static inline uint##bits##_t load_acquire_##bits(const volatile uint##bits##_t *p) \\
            { return __atomic_load_n(p, __ATOMIC_ACQUIRE); } \\
        static inline uint##bits##_t load_relaxed_##bits(const volatile uint##bits##_t *p) \\
            { return __atomic_load_n(p, __ATOMIC_RELAXED); } \\
        static inline void store_release_##bits(volatile uint##bits##_t *p, uint##bits##_t v) \\
            { __atomic_store_n(p, v, __ATOMIC_RELEASE); } \\
        static inline void store_relaxed_##bits(volatile uint##bits##_t *p, uint##bits##_t v) \\
            { __atomic_store_n(p, v, __ATOMIC_RELAXED); } \\
        static inline uint##bits##_t exchange_##bits(volatile uint##bits##_t *p, uint##bits##_t v) \\
            { return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST); } \\
        static inline int compare_swap_##bits(volatile uint##bits##_t *p, uint##bits##_t *expected, \\
                                              uint##bits##_t v) \\
            { return __atomic_compare_exchange_n(p, expected, v, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE); } \
        static inline void set_bits_##bits(volatile uint##bits##_t *p, uint##bits##_t mask) \
            { (void)__atomic_fetch_or(p, mask, __ATOMIC_SEQ_CST); } \
        static inline void clear_bits_##bits(volatile uint##bits##_t *p, uint##bits##_t mask) \
            { (void)__atomic_fetch_and(p, (uint##bits##_t)~mask, __ATOMIC_SEQ_CST); }
    RINGBLK_ATOMIC(8)
    RINGBLK_ATOMIC(16)
    RINGBLK_ATOMIC(32)
    RINGBLK_ATOMIC(64)
    #undef RINGBLK_ATOMIC
    static inline void full_fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
    #if defined(__x86_64__) || defined(__i386__)
    static inline void spin_hint(void) { __builtin_ia32_pause(); }
    #elif defined(__aarch64__)
    static inline void spin_hint(void) { __asm__ volatile("yield"); }
    #else
    static inline void spin_hint(void) { }
    #endif
    """
    uint8_t load_acquire_8(const volatile uint8_t *pointer)
    uint16_t load_acquire_16(const volatile uint16_t *pointer)
    uint32_t load_acquire_32(const volatile uint32_t *pointer)
    uint64_t load_acquire_64(const volatile uint64_t *pointer)
    uint8_t load_relaxed_8(const volatile uint8_t *pointer)
    uint16_t load_relaxed_16(const volatile uint16_t *pointer)
    uint32_t load_relaxed_32(const volatile uint32_t *pointer)
    uint64_t load_relaxed_64(const volatile uint64_t *pointer)
    void store_release_8(volatile uint8_t *pointer, uint8_t value)
    void store_release_16(volatile uint16_t *pointer, uint16_t value)
    void store_release_32(volatile uint32_t *pointer, uint32_t value)
    void store_release_64(volatile uint64_t *pointer, uint64_t value)
    void store_relaxed_8(volatile uint8_t *pointer, uint8_t value)
    void store_relaxed_16(volatile uint16_t *pointer, uint16_t value)
    void store_relaxed_32(volatile uint32_t *pointer, uint32_t value)
    void store_relaxed_64(volatile uint64_t *pointer, uint64_t value)
    uint32_t exchange_32(volatile uint32_t *pointer, uint32_t value)
    uint64_t exchange_64(volatile uint64_t *pointer, uint64_t value)
    bint compare_swap_32(volatile uint32_t *pointer, uint32_t *expected, uint32_t value)
    bint compare_swap_64(volatile uint64_t *pointer, uint64_t *expected, uint64_t value)
    void set_bits_8(volatile uint8_t *pointer, uint8_t mask)
    void set_bits_64(volatile uint64_t *pointer, uint64_t mask)
    void clear_bits_64(volatile uint64_t *pointer, uint64_t mask)
    void full_fence()
    void spin_hint()
