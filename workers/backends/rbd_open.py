"""Finding an RBD image: by a process of its own, since whoever has opened one cannot fork clients."""

import importlib.util
import subprocess
import sys

import msgspec

from ringblk.workers.backends.interface import BackendError
from ringblk.workers.backends.topology import SECTOR_BYTES, BlockTopology, drive_size_fault
from ringblk.workers.rbd.image_name import BadImageName, RbdFound, RbdName, parse_name

LOOK_S = 60.0
"""How long that may take; the lock of a client that has just died is waited for, for half a minute."""
DISCARD_BYTES = 64 << 10
"""librbd gives back no less (rbd_discard_granularity_bytes)."""


def name_image(uri: str, conf: str | None, user: str | None) -> RbdName:
    """What a URI names. Raises `BackendError`, also where there is no librbd."""
    try:
        name = parse_name(uri, conf, user)
    except BadImageName as error:
        raise BackendError(f"{uri}: {error}") from None
    if importlib.util.find_spec("ringblk.workers.rbd.client") is None:
        raise BackendError(
            f"{uri}: this ringblk was built without librbd: install librbd-dev and build it again"
        )
    return name


def look_at_image(name: RbdName, read_only: bool) -> RbdFound:
    """Connect, see what there is, and that nobody else has its lock. Raises `BackendError`."""
    command = [sys.executable, "-P", "-m", "ringblk.workers.rbd.look", "read" if read_only else "write"]
    try:
        done = subprocess.run(
            command, input=msgspec.json.encode(name), capture_output=True, timeout=LOOK_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise BackendError(f"{name.uri_text}: the cluster does not answer within {LOOK_S:g} s") from None
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").splitlines() or ["the look at it has failed"]
        raise BackendError(f"{name.uri_text}: {lines[-1]}")
    found = msgspec.json.decode(done.stdout, type=RbdFound)
    if fault := drive_size_fault(found.size_bytes - found.size_bytes % SECTOR_BYTES):
        raise BackendError(f"{name.uri_text}: {fault}")
    return found


def image_topology(found: RbdFound) -> BlockTopology:
    """What a guest is told: an object is best written whole."""
    return BlockTopology(optimal_io_bytes=found.object_bytes, discard_granularity_bytes=DISCARD_BYTES)
