from ringblk.workers.nbd.handshake cimport Handshake


cdef class TlsHandshake(Handshake):
    cdef object context, hostname, converse
    cdef object connecting     # `TlsConnecting`; None: there is no attempt
    cdef object session        # of the last that went well, until it was taken

    cdef object take_session(self)
