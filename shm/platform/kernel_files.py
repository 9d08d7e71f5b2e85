"""What the kernel says of the machine and of itself; nothing where it says that elsewhere, or not at all."""

import functools
import os

_SYSTEM = "/proc"


def sysctl(name: str) -> str:
    """The first word of a setting, as `kernel/io_uring_disabled`; empty where there is none to be read."""
    return next(iter(_read(f"{_SYSTEM}/sys/{name}").split()), "")


@functools.cache
def boot_id() -> bytes:
    """16 bytes that no other boot of any machine has. Empty where the system has no such thing.

    Who has asked once is told again in a sandbox, too.
    """
    return bytes.fromhex(sysctl("kernel/random/boot_id").replace("-", ""))


def memory_lines() -> list[str]:
    """How memory is used (proc(5), meminfo), in KiB or pages."""
    return _read(f"{_SYSTEM}/meminfo").splitlines()


def cpu_ticks() -> list[int]:
    """What all cores have done (proc(5), the first line of stat), in ticks."""
    return [int(word) for word in _read(f"{_SYSTEM}/stat").partition("\n")[0].split()[1:]]


def locked_inodes(kind: str) -> set[int]:
    """The inodes of all files locked in this way, OFDLCK or FLOCK, on this host (proc_locks(5)).

    Without their devices: those are other ones there than stat(2)'s, on btrfs for example.
    """
    lines = _read(f"{_SYSTEM}/locks").splitlines()
    return {int(line.split()[-3].rpartition(":")[2]) for line in lines if f" {kind} " in line} - {0}


def mounts() -> bytes:
    """What is mounted where (proc(5), mountinfo). A path in it may be any bytes."""
    try:
        with open(f"{_SYSTEM}/self/mountinfo", "rb") as file:
            return file.read()
    except OSError:
        return b""


def path_of_descriptor(fd: int) -> bytes | None:
    """Where what is open is called now; None: nobody can tell."""
    try:
        return os.readlink(f"{_SYSTEM}/self/fd/{fd}".encode())
    except OSError:
        return None


def device_file(device: int, *names: str) -> str:
    """What the first of these files of a block device says (sysfs(5)); empty where there is none."""
    folder = os.path.realpath(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    return next((text for name in names if (text := _read(f"{folder}/{name}"))), "")


def device_node(device: int) -> str:
    """A path of a block device by its number."""
    return f"/dev/block/{os.major(device)}:{os.minor(device)}"


def usable_cpus() -> list[int]:
    """The cores that this process may run on; none where it is not for it to choose."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def _read(path: str) -> str:
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return ""
