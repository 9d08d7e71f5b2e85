# What a request of each opcode consists of, before anything is made of it.

from libc.stdint cimport uint32_t, uint8_t

cdef enum:
    OPCODE_LIMIT = 53

cdef enum RuleText:
    TEXT_NONE = 0
    TEXT_NAME = 1           # one name in a folder
    TEXT_TWO_NAMES = 2
    TEXT_NAME_TARGET = 3    # a name, and where a link leads
    TEXT_ATTRIBUTE = 4      # an extended attribute's name
    TEXT_ATTRIBUTE_DATA = 5 # and its value
    TEXT_DATA = 6           # bytes that stay where they are

cdef enum RuleFlags:
    RULE_NODE = 1           # it is about an inode that the guest knows
    RULE_BRIEF = 2          # as quick as the file system below is
    RULE_IN_PLACE = 4       # it takes no time at all
    RULE_CHANGES = 8        # it changes the folder
    RULE_NO_REPLY = 16
    RULE_LONG = 32          # it may take as long as a disk or a network

cdef struct Rule:
    uint8_t operation       # 0: there is no such opcode
    uint8_t argument_bytes
    uint8_t text
    uint8_t flags

cdef const Rule *rule_of(uint32_t opcode) noexcept nogil
