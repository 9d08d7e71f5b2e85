# A request to an NBD server, until it is answered; whatever connection it goes through.

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from posix.uio cimport iovec

cdef enum:
    FEW_RANGES = 4

cdef struct NbdCommand:
    NbdCommand *next          # in a list
    uint64_t place            # the caller's
    uint64_t offset_bytes
    uint32_t length_bytes
    uint16_t command
    uint16_t flags
    int error                 # once it is done: 0, or a negative errno
    uint64_t given_bytes      # of a read, by the answers so far
    int range_count           # of data; the memory is the caller's until it is done
    iovec *ranges             # its own list
    iovec few_ranges[FEW_RANGES]

cdef struct CommandList:
    NbdCommand *first
    NbdCommand *last


cdef inline void append(CommandList *commands, NbdCommand *command) noexcept nogil:
    command.next = NULL
    if commands.last == NULL:
        commands.first = command
    else:
        commands.last.next = command
    commands.last = command


cdef inline NbdCommand *take_first(CommandList *commands) noexcept nogil:
    cdef NbdCommand *command = commands.first
    if command != NULL:
        commands.first = command.next
        if commands.first == NULL:
            commands.last = NULL
    return command
