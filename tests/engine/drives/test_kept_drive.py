"""The state of a session and its drive, as it is sent to who keeps it."""

from ringblk.engine.base.open_files import MAX_MEM_SLOTS
from ringblk.engine.dispatcher.messages import SESSION_PART, KeepState, SetInflight, SetLog
from ringblk.engine.drives.image_hold import HoldState
from ringblk.engine.drives.kept_drive import KeptDrive, KeptQueue, KeptRegion
from ringblk.engine.vhost_user.messages import VringAddress
from ringblk.engine.vhost_user.session_keeper import KeptMessage, KeptReply, KeptSession, KeptVring
from ringblk.shm.memory.region import MemoryRegion
from ringblk.shm.state.segment import MAX_QUEUES
from ringblk.shm.sync.channel import MAX_MESSAGE_BYTES, encode_message
from ringblk.workers.process.messages import MapRegion

NUMBER = (1 << 64) - 1
HANDLE = 1 << 32


def largest() -> KeptDrive:
    """All that there can be of everything, each number as long as it can be."""
    region = MemoryRegion(NUMBER, NUMBER, NUMBER, NUMBER)
    address = VringAddress(MAX_QUEUES, 1, NUMBER, NUMBER, NUMBER, NUMBER)
    ring = KeptVring(1 << 15, address, 65535, True, True, True, HANDLE, HANDLE, HANDLE)
    session = KeptSession(
        connection=HANDLE,
        marks=HANDLE,
        has_begun=True,
        features=NUMBER,
        protocol_features=NUMBER,
        status=255,
        slot_count=MAX_MEM_SLOTS,
        regions=((NUMBER,) * 4,) * MAX_MEM_SLOTS,
        rings=(ring,) * MAX_QUEUES,
        channel=HANDLE,
        message=KeptMessage(bytes(4096), (HANDLE,) * 8),
        reply=KeptReply(NUMBER, bytes(4096), HANDLE),
        reply_count=NUMBER,
        is_over=False,
    )
    return KeptDrive(
        session=session,
        next_request_id=NUMBER,
        device=bytes(100),
        regions=[KeptRegion(MapRegion(511, region, NUMBER), HANDLE, True)] * 512,
        epoch=NUMBER,
        queues=[KeptQueue(MAX_QUEUES, True, True, True)] * MAX_QUEUES,
        hold=HoldState(True, True, True),
        has_let_go=True,
        inflight=(SetInflight(0, NUMBER, NUMBER, 1 << 15), HANDLE),
        is_inflight_shared=True,
        was_inflight_used=True,
        log=(SetLog(0, NUMBER, NUMBER), HANDLE),
        is_logging=True,
    )


def test_the_largest_there_can_be_is_one_message() -> None:
    kept = largest()
    message = KeepState(SESSION_PART, encode_message(kept), sorted(kept.handles()))
    assert len(encode_message(message)) <= MAX_MESSAGE_BYTES
