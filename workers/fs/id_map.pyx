# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Users and groups that have other numbers in the guest than here, in one direction (virtiofsd's --translate-uid)."""

from libc.errno cimport EPERM


cdef class IdMap:
    """`ranges` are (first, count, target, kind), none of which overlap; what is in none stays what it is."""

    def __init__(self, ranges):
        for first, count, target, kind in ranges[:ID_RANGE_LIMIT]:
            self.ranges[self.count] = IdRange(first=first, end=first + count, target=target, kind=kind)
            self.count += 1

    def translated(self, uint32_t number):
        """What a number becomes; None: it is forbidden."""
        cdef int64_t result = self.translate(number)
        return None if result < 0 else result

    cdef int64_t translate(self, uint32_t number) noexcept nogil:
        """What a number becomes; or -EPERM."""
        cdef uint32_t index
        cdef IdRange *one
        for index in range(self.count):
            one = &self.ranges[index]
            if one.first <= number < one.end:
                if one.kind == ID_FORBIDDEN:
                    return -EPERM
                return one.target if one.kind == ID_SQUASHED else one.target + <int64_t>(number - one.first)
        return number
