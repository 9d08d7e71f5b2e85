from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ringblk.workers.nbd.command cimport NbdCommand
from ringblk.workers.nbd.tls_handshake cimport TlsHandshake
from ringblk.workers.nbd.tls_records cimport RecordCursor
from ringblk.workers.nbd.transmission cimport Transmission


cdef class TlsTransmission(Transmission):
    cdef TlsHandshake handshake
    cdef object session               # `TlsSession`, of the connection
    cdef object plain                 # the stream of replies without encryption, as it is parsed
    cdef object piece                 # what is encrypted at once
    cdef uint8_t *piece_bytes
    cdef bytes unsent                 # encrypted
    cdef uint64_t unsent_place        # so much of it was sent
    cdef uint64_t encrypted_bytes     # of the stream of requests, as records
    cdef uint64_t asked_bytes         # of data in the answers to all that was encrypted
    cdef uint64_t spared_bytes        # of data that failed reads did not bring
    cdef uint32_t mark_count
    cdef RecordCursor cursor          # of the stream of replies, as records

    cdef int _encrypt(self) except -1
    cdef int _say(self, NbdCommand *command, uint32_t cookie) except -1
    cdef int _say_piece(self, uint64_t size_bytes) except -1
    cdef int _add_mark(self, uint32_t cookie) except -1
    cdef int _send_records(self) noexcept nogil
    cdef int _take_records(self, uint64_t size_bytes) except? -1
    cdef int _read_plain(self) except? -1
    cdef void _note_place(self) noexcept nogil
