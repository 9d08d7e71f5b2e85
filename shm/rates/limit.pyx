# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The rate limit of a drive, or of a group of drives: six token buckets in shared memory.

Bytes and operations, each for reads, for writes and for all. A request draws from those that apply to its
kind (a CHARGE_ mask). Dispatchers draw through an account of their drive's (account.pyx);
rate_limit_acquire draws for one request from all of its buckets or from none.
"""

from libc.stdint cimport uint64_t, uint8_t

from ringblk.shm.sync.atomic cimport load_acquire_64, store_release_64
from ringblk.shm.sync.buffer_address cimport place_in
from ringblk.shm.rates.token_bucket cimport (
    Draw, TermsWords, bucket_acquire, bucket_configure, bucket_has_terms, bucket_is_limited, bucket_refund, bucket_wait, read_terms,
)
from ringblk.shm.rates.bucket_settings import BucketSettingsError
from ringblk.shm.rates.limit_settings import RateLimitSettings

BUCKET_NAMES = RateLimitSettings.__struct_fields__   # in the order of BucketIndex
STATE_BYTES = RATE_LIMIT_STATE_BYTES
READ = CHARGE_READ
WRITE = CHARGE_WRITE
OTHER = CHARGE_OTHER


cdef uint64_t rate_limit_wait(RateLimitState *state, uint64_t mask, uint64_t size_bytes,
                              uint64_t now_ns) noexcept nogil:
    """How long until each bucket in `mask` has what is wanted of it."""
    cdef uint64_t index, wait_ns
    cdef uint64_t longest_ns = 0
    for index in range(BUCKET_COUNT):
        if (mask >> index) & 1:
            wait_ns = bucket_wait(&state.buckets[index], amount_for(index, size_bytes), now_ns)
            if wait_ns > longest_ns:
                longest_ns = wait_ns
    return longest_ns


cdef uint64_t rate_limit_acquire(RateLimitState *state, uint64_t kind, uint64_t size_bytes,
                                 uint64_t now_ns) noexcept nogil:
    """Draw from all buckets of `kind` and return 0, or from none and return the wait in nanoseconds."""
    cdef uint64_t mask = load_acquire_64(&state.limited_mask) & kind
    if mask == 0:
        return 0
    cdef Draw draws[6]
    cdef uint64_t index, before, wait_ns
    # Looking first spares others the sight of tokens that are drawn and given back.
    if mask & (mask - 1):
        wait_ns = rate_limit_wait(state, mask, size_bytes, now_ns)
        if wait_ns != 0:
            return wait_ns
    for index in range(BUCKET_COUNT):
        if not (mask >> index) & 1:
            continue
        wait_ns = bucket_acquire(&state.buckets[index], amount_for(index, size_bytes), now_ns, &draws[index])
        if wait_ns != 0:
            for before in range(index):
                if (mask >> before) & 1:
                    bucket_refund(&state.buckets[before], &draws[before])
            return wait_ns
    return 0


cdef class RateLimit:
    """The six buckets in a writable buffer, such as a shared mapping."""

    def __cinit__(self, buffer, size_t offset_bytes=0):
        cdef uint8_t *place = place_in(buffer, offset_bytes, sizeof(RateLimitState), RATE_LIMIT_ALIGN_BYTES, "a rate limit")
        self.buffer = memoryview(buffer)   # an export: the mapping cannot be closed under us
        self.state = <RateLimitState *>place

    def configure(self, settings, uint64_t now_ns):
        """Begin with new settings (RateLimitSettings) and full buckets.

        One process at a time; others may be drawing. Raises BucketSettingsError, its field beginning with
        the bucket's name, and has then changed nothing.
        """
        self.configure_some({name: getattr(settings, name) for name in BUCKET_NAMES}, now_ns)

    def configure_some(self, settings, uint64_t now_ns):
        """Like configure(), for the buckets named in a mapping; the others go on as they are."""
        cdef TermsWords terms[6]
        cdef uint64_t mask = 0
        cdef int index
        indexes = [BUCKET_NAMES.index(name) for name in settings]
        for index in indexes:
            name = BUCKET_NAMES[index]
            try:
                read_terms(settings[name], now_ns, &terms[index])
            except BucketSettingsError as error:
                raise BucketSettingsError(f"{name}.{error.field}", error.reason) from None
        for index in indexes:
            bucket_configure(&self.state.buckets[index], &terms[index])
        for index in range(BUCKET_COUNT):
            if bucket_is_limited(&self.state.buckets[index]):
                mask |= <uint64_t>1 << index
        store_release_64(&self.state.limited_mask, mask)

    def differing(self, settings):
        """The names of the buckets that are not as these settings (RateLimitSettings) have them."""
        cdef TermsWords wanted
        names = []
        for index, name in enumerate(BUCKET_NAMES):
            read_terms(getattr(settings, name), 0, &wanted)
            if not bucket_has_terms(&self.state.buckets[index], &wanted):
                names.append(name)
        return names

    def acquire(self, uint64_t kind, uint64_t size_bytes, uint64_t now_ns):
        """Draw for one request and return 0, or draw nothing and return the nanoseconds to wait."""
        return rate_limit_acquire(self.state, kind, size_bytes, now_ns)

    def acquire_many(self, uint64_t kind, uint64_t size_bytes, uint64_t most, uint64_t now_ns):
        """Acquire up to `most` times, until refused; return how often it succeeded. For measurements."""
        cdef uint64_t count = 0
        with nogil:
            while count < most and rate_limit_acquire(self.state, kind, size_bytes, now_ns) == 0:
                count += 1
        return count

    @property
    def limited(self):
        """The names of the buckets that have a limit."""
        return [name for index, name in enumerate(BUCKET_NAMES) if self.state.limited_mask >> index & 1]


assert sizeof(RateLimitState) == RATE_LIMIT_STATE_BYTES
