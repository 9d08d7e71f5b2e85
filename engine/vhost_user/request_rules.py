"""What comes with each vhost-user request, what it needs, and how it is answered."""

from typing import Any

from ringblk.engine.vhost_user.codes import FrontendRequest, ProtocolFeature


def expected_fd_counts(request: FrontendRequest, payload: Any) -> tuple[int, ...]:
    """How many fds may come along with a request."""
    match request:
        case FrontendRequest.SET_VRING_KICK | FrontendRequest.SET_VRING_CALL | FrontendRequest.SET_VRING_ERR:
            return (1,) if payload.has_fd else (0,)
        case FrontendRequest.SET_MEM_TABLE:
            return (len(payload),)
        case (
            FrontendRequest.ADD_MEM_REG
            | FrontendRequest.SET_BACKEND_REQ_FD
            | FrontendRequest.SET_INFLIGHT_FD
            | FrontendRequest.SET_LOG_BASE
            | FrontendRequest.SET_LOG_FD
            | FrontendRequest.SET_DEVICE_STATE_FD
        ):
            return (1,)
        case FrontendRequest.REM_MEM_REG:
            return (0, 1)  # the specification asks to put up with one, and to close it
        case _:
            return (0,)


OWN_REPLY = frozenset(
    {
        *(request for request in FrontendRequest if request.name.startswith("GET_")),
        FrontendRequest.SET_DEVICE_STATE_FD,
        FrontendRequest.CHECK_DEVICE_STATE,
    }
)
"""Requests with an answer of their own; the others have one where the front end asks for it (REPLY_ACK)."""

NEEDED_FEATURE = {
    FrontendRequest.SET_LOG_BASE: ProtocolFeature.LOG_SHMFD,
    FrontendRequest.SET_LOG_FD: ProtocolFeature.LOG_SHMFD,
    FrontendRequest.GET_CONFIG: ProtocolFeature.CONFIG,
    FrontendRequest.SET_CONFIG: ProtocolFeature.CONFIG,
    FrontendRequest.SET_BACKEND_REQ_FD: ProtocolFeature.BACKEND_REQ,
    FrontendRequest.GET_INFLIGHT_FD: ProtocolFeature.INFLIGHT_SHMFD,
    FrontendRequest.SET_INFLIGHT_FD: ProtocolFeature.INFLIGHT_SHMFD,
    FrontendRequest.RESET_DEVICE: ProtocolFeature.RESET_DEVICE,
    FrontendRequest.GET_MAX_MEM_SLOTS: ProtocolFeature.CONFIGURE_MEM_SLOTS,
    FrontendRequest.ADD_MEM_REG: ProtocolFeature.CONFIGURE_MEM_SLOTS,
    FrontendRequest.REM_MEM_REG: ProtocolFeature.CONFIGURE_MEM_SLOTS,
    FrontendRequest.SET_STATUS: ProtocolFeature.STATUS,
    FrontendRequest.GET_STATUS: ProtocolFeature.STATUS,
    FrontendRequest.GET_SHMEM_CONFIG: ProtocolFeature.SHMEM,
    FrontendRequest.SET_DEVICE_STATE_FD: ProtocolFeature.DEVICE_STATE,
    FrontendRequest.CHECK_DEVICE_STATE: ProtocolFeature.DEVICE_STATE,
    FrontendRequest.GET_VRING_BASE_SKIP_DRAIN: ProtocolFeature.GET_VRING_BASE_SKIP_DRAIN,
}
"""What must have been negotiated before a request is served."""
