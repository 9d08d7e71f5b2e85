"""What vhost-user messages are called: request codes and feature bits, as far as they are served here.

Source: QEMU, docs/interop/vhost-user.rst.
"""

import enum

F_LOG_ALL = 1 << 26
"""The feature, as a mask, that has all writes to guest memory marked in the dirty log (VHOST_F_LOG_ALL)."""
F_PROTOCOL_FEATURES = 1 << 30
"""The virtio feature, as a mask, that offers protocol features (VHOST_USER_F_PROTOCOL_FEATURES)."""


class FrontendRequest(enum.IntEnum):
    """What a front end asks of a back end ("Front-end message types")."""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    RESET_OWNER = 4
    SET_MEM_TABLE = 5
    SET_LOG_BASE = 6
    SET_LOG_FD = 7
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    SET_BACKEND_REQ_FD = 21
    GET_CONFIG = 24
    SET_CONFIG = 25
    GET_INFLIGHT_FD = 31
    SET_INFLIGHT_FD = 32
    RESET_DEVICE = 34
    GET_MAX_MEM_SLOTS = 36
    ADD_MEM_REG = 37
    REM_MEM_REG = 38
    SET_STATUS = 39
    GET_STATUS = 40
    SET_DEVICE_STATE_FD = 42
    CHECK_DEVICE_STATE = 43
    GET_SHMEM_CONFIG = 44
    GET_VRING_BASE_SKIP_DRAIN = 45


class BackendRequest(enum.IntEnum):
    """What a back end asks of a front end over the back-end request channel ("Back-end message types")."""

    CONFIG_CHANGE_MSG = 2


VRING_F_LOG = 1 << 0
"""The flag of SET_VRING_ADDR that has writes to the used ring marked in the dirty log (VHOST_VRING_F_LOG)."""


class StateDirection(enum.IntEnum):
    """Where a device's state goes ("Device state transfer parameters")."""

    SAVE = 0
    LOAD = 1


STATE_PHASE_STOPPED = 0
"""The one phase there is: no ring runs."""


class ProtocolFeature(enum.IntFlag):
    """Protocol features as masks, not bit numbers ("Protocol features")."""

    MQ = 1 << 0
    LOG_SHMFD = 1 << 1
    REPLY_ACK = 1 << 3
    BACKEND_REQ = 1 << 5
    CONFIG = 1 << 9
    BACKEND_SEND_FD = 1 << 10
    INFLIGHT_SHMFD = 1 << 12
    RESET_DEVICE = 1 << 13
    CONFIGURE_MEM_SLOTS = 1 << 15
    STATUS = 1 << 16
    DEVICE_STATE = 1 << 19
    GET_VRING_BASE_INFLIGHT = 1 << 20
    SHMEM = 1 << 22
    GET_VRING_BASE_SKIP_DRAIN = 1 << 23
