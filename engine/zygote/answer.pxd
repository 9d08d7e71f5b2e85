# Encoded messages with places for two numbers, which compiled code fills in before it sends them.

from libc.stdint cimport uint32_t, uint8_t
from libc.string cimport memcpy

cdef enum:
    ANSWER_BYTES = 32
    FIRST_NUMBER = 0x7FFF_FFFF    # where it stands in an encoded message, the first is to be
    SECOND_NUMBER = 0x7FFF_FFFE


cdef struct Answer:
    uint8_t data[ANSWER_BYTES]
    int size_bytes
    int first_at                # where its first number stands, four bytes, most significant first
    int second_at               # the second; -1: it has one only


cdef inline int place_of(bytes encoded, number):
    return encoded.find(b"\xce" + number.to_bytes(4, "big")) + 1 or -1


cdef inline Answer answer_like(bytes encoded) except *:
    cdef Answer answer
    assert len(encoded) <= ANSWER_BYTES
    memcpy(answer.data, <const char *>encoded, len(encoded))
    answer.size_bytes = <int>len(encoded)
    answer.first_at = place_of(encoded, FIRST_NUMBER)
    answer.second_at = place_of(encoded, SECOND_NUMBER)
    assert answer.first_at > 0, "an answer without the place of its number"
    return answer


cdef inline void put_number(uint8_t *at, uint32_t number) noexcept:
    cdef int index
    for index in range(4):
        at[index] = <uint8_t>(number >> (24 - 8 * index))
