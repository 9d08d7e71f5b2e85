"""The crash points by how a test comes to them."""

from ringblk.shm.platform.process import HAS_ZYGOTE
from tests.crash.crash_points import point_names

POINTS = sorted(name for name in point_names() if HAS_ZYGOTE or "zygote" not in name)
# Points that a load alone does not reach: the deaths that lead to them.
AFTER_DEATH_AT = {
    "recovery: stale slot freed": "dispatcher: slot prepared",
    "recovery: slot taken back": "dispatcher: handed in the slot",
    "recovery: slot given again": "dispatcher: submit entry written",
    "recovery: published head cleared": "ring: used index published",
    "recovery: record agrees with the ring": "dispatcher: called",
    "recovery: called": "dispatcher: slot freed",
    "recovery: dead worker's slot taken back": "worker: taken",
    "recovery: dead worker's ring emptied": "worker: executed",
    "recovery: worker woken": "worker: done published",
    "supervisor: child reaped": "worker: taken",
    "supervisor: child forked": "inflight: flag set",
    "supervisor: set-up message sent": "dispatcher: slot prepared",
    "supervisor: worker cleared away": "worker: about to sleep",
    "supervisor: zygote asked": "worker: executed",
    "supervisor: zygote reaped": "zygote: child reaped",
    "supervisor: zygote forked": "zygote: end told",
    "zygote: fork asked for": "dispatcher: slot prepared",
    "zygote: child forked": "worker: taken",
    "zygote: fork answered": "dispatcher: slot prepared",
    "zygote: child about to wait": "dispatcher: slot freed",
    "zygote: child begins": "worker: executed",
    "zygote: child reaped": "dispatcher: called",
    "zygote: end told": "worker: taken",
}
SUPERVISOR_POINTS = [name for name in POINTS if name.startswith("supervisor:")]
SESSION_POINTS = [name for name in POINTS if name.startswith("session:")]
URING_POINTS = [name for name in POINTS if name.startswith("uring:")]
RING_POINTS = [name for name in POINTS if name.startswith("dispatcher ring:")]
OVERLAP_POINTS = [name for name in POINTS if name.startswith("overlap:")]
"""Reached where parts of blocks are changed: tests/crash/test_partial_blocks.py."""
FAILED_DISK_POINTS = ["dispatcher ring: given away"]
"""Reached where a disk fails: tests/crash/test_slow_disk.py."""
UNPOP_POINTS = [name for name in POINTS if name.startswith("unpop:")]
"""Reached where requests wait for tokens: tests/crash/test_unpop.py."""
SUSPEND_POINTS = [name for name in POINTS if name.startswith(("suspend:", "image:"))]
"""Reached where a guest moves with requests in flight: tests/crash/test_suspended_deaths.py."""
LAYER_POINTS = [name for name in POINTS if name.startswith("layer:")]
"""Reached where a drive has an overlay: tests/crash/test_overlay_deaths.py."""
CHANGES_POINTS = [name for name in POINTS if name.startswith("changes:")]
"""Reached where changes are tracked: tests/crash/test_tracking_deaths.py."""
NBD_POINTS = [name for name in POINTS if name.startswith("nbd:")]
"""Reached where an NBD server keeps the bytes: tests/crash/test_nbd_deaths.py."""
FETCHER_POINTS = [name for name in POINTS if name.startswith("fetcher:")]
"""Reached where a base is fetched: tests/engine/fetcher/test_fetched_drives.py kills the fetcher."""
RBD_POINTS = [name for name in POINTS if name.startswith("rbd:")]
"""Reached where a Ceph cluster keeps the bytes: tests/engine/program/test_rbd_drives.py."""
FOLDER_POINTS = [name for name in POINTS if name.startswith(("folder:", "window:"))]
"""Reached where a folder is shared: tests/engine/devices/test_share_kills.py, test_share_window.py."""
WORKERS_POINTS = [name for name in POINTS if name.startswith("workers:")]
"""Reached where workers come and go: tests/crash/test_walk_workers.py."""
CHAIN_POINTS = [name for name in POINTS if name.startswith(("chain:", "layers:"))]
"""Reached where layers are sealed and merged: tests/crash/test_walk_layers.py."""
PENDING_POINTS = [name for name in POINTS if name.startswith("pending:")]
"""Reached where requests wait for somebody else, which those of a block device do not."""
KEPT_POINTS = [name for name in POINTS if name.startswith(("reply:", "channel:"))]
"""Reached where a session is kept: tests/crash/test_kept_session.py."""
CUSTODY_POINTS = [name for name in POINTS if name.startswith("custody:")]
"""Reached in an engine with a list: tests/crash/test_walk_kept.py."""
CONTROL_PLANE_POINTS = [name for name in POINTS if name.startswith("control plane:")]
"""Reached where a control plane begins, ends or is started again: tests/crash/test_walk_control_plane.py."""
FIRST_START_POINTS = ["recovery: record initialised"]
RECORD_POINTS = [name for name in POINTS if name.startswith(("record:", "rate group:"))]
"""Reached where something is set: tests/crash/test_settings_record.py."""
CHILD_POINTS = [
    name
    for name in POINTS
    if name
    not in SUPERVISOR_POINTS
    + SESSION_POINTS
    + URING_POINTS
    + RING_POINTS
    + UNPOP_POINTS
    + OVERLAP_POINTS
    + LAYER_POINTS
    + CHAIN_POINTS
    + CHANGES_POINTS
    + SUSPEND_POINTS
    + NBD_POINTS
    + FETCHER_POINTS
    + RBD_POINTS
    + FOLDER_POINTS
    + WORKERS_POINTS
    + PENDING_POINTS
    + CUSTODY_POINTS
    + CONTROL_PLANE_POINTS
    + FIRST_START_POINTS
    + RECORD_POINTS
    + KEPT_POINTS
]
INLINE_POINTS = [
    name for name in CHILD_POINTS if name.startswith(("dispatcher: inline", "inflight:", "ring:"))
]


def with_cause(point: str, passage: int) -> list[tuple[str, int]]:
    """The deaths that end with one at the point."""
    cause = AFTER_DEATH_AT.get(point)
    return [*with_cause(cause, passage), (point, 1)] if cause else [(point, passage)]
