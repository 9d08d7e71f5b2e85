"""How long requests on a file take: by the file system it is on, else by trying."""

import mmap
import os
import time

from ringblk.shm.platform.kernel_files import mounts
from ringblk.workers.backends.answers import Waiting

_MEMORY_FILE_SYSTEMS = {"tmpfs", "ramfs", "hugetlbfs"}
_WAITING_FILE_SYSTEMS = {"fuse", "fuseblk", "virtiofs"}
"""Where the kernel carries out what an io_uring is given before it returns, however long that takes."""
_NETWORK_FILE_SYSTEMS = {
    *("nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs", "fuse", "ceph", "afs"),
    *("gfs2", "ocfs2", "lustre", "gpfs", "beegfs", "orangefs", "coda"),
}
"""Where other hosts may have the same file open, by themselves or behind a server that shares it."""
_SAMPLE_BYTES = 4096
_SAMPLE_COUNT = 16


def file_waiting(fd: int, size_bytes: int, *, is_direct: bool) -> Waiting:
    """Look at where the file is. One that is read past the page cache is read from, here and there."""
    file_system = file_system_of(fd)
    if file_system in _MEMORY_FILE_SYSTEMS:
        return Waiting(may_block=False, reason="the image is in memory")
    if file_system.split(".")[0] in _WAITING_FILE_SYSTEMS:
        return Waiting(reason=f"who asks {file_system} waits for it, with io_uring, too")
    if not is_direct:  # what the page cache answers says nothing of the rest
        return Waiting(reason="it goes through the page cache, which may block")
    return Waiting(
        begins_at_once=True,
        sample_ns=_sample_ns(fd, size_bytes),
        reason="it goes past the page cache",
    )


def folder_waiting(fd: int) -> Waiting:
    """How long requests on a folder take, by the file system that it is on."""
    file_system = file_system_of(fd)
    if file_system in _MEMORY_FILE_SYSTEMS:
        return Waiting(may_block=False, reason="the folder is in memory")
    return Waiting(reason=f"who asks {file_system or 'the file system'} may wait for it")


def is_network_file_system(fd: int) -> bool:
    """Whether other hosts may have the file open too, as far as its file system's type tells."""
    return file_system_of(fd).split(".")[0] in _NETWORK_FILE_SYSTEMS


def file_system_of(fd: int) -> str:
    """The type of the file system that a file is on; empty where it cannot be told."""
    try:
        return file_system_type(os.fstat(fd).st_dev, mounts())
    except OSError:
        return ""


def file_system_type(device: int, mounted: bytes) -> str:
    """What `mounted` (`mounts`) says of a device; empty where it says nothing.

    Who may mount something may call the place anything: its path may be no text, and have line ends in it
    that are none to the kernel.
    """
    number = f"{os.major(device)}:{os.minor(device)}".encode()
    for fields in (line.split(b" ") for line in mounted.split(b"\n") if line):
        if fields[2] == number:  # proc(5): field 3 the device, then "-" and the type
            return os.fsdecode(fields[fields.index(b"-") + 1])
    return ""


def _sample_ns(fd: int, size_bytes: int) -> int | None:
    """The median time of reads past the page cache, here and there.

    Holes say nothing of the disk, so only places with data count; with few of them, nothing can be told.
    """
    buffer = mmap.mmap(-1, _SAMPLE_BYTES)  # aligned, as direct I/O wants it
    took_ns = []
    for index in range(_SAMPLE_COUNT):
        place = size_bytes * index // _SAMPLE_COUNT
        try:
            offset_bytes = os.lseek(fd, place, os.SEEK_DATA) // _SAMPLE_BYTES * _SAMPLE_BYTES
            started_ns = time.perf_counter_ns()
            if os.preadv(fd, [buffer], offset_bytes) == _SAMPLE_BYTES:
                took_ns.append(time.perf_counter_ns() - started_ns)
        except OSError:  # no data from here on, or no SEEK_DATA
            continue
    return sorted(took_ns)[len(took_ns) // 2] if len(took_ns) >= _SAMPLE_COUNT // 2 else None
