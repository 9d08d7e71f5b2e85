"""What a drive needs of the host, whatever its image: each is asked for as an engine asks for it."""

import errno
import itertools
import os
import resource
from collections.abc import Callable

import msgspec

from ringblk.engine.base.number_text import size_text
from ringblk.engine.base.open_files import MAX_MEM_SLOTS, OPEN_FILES_MEND, OpenFiles
from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.devices.io_plan import LOCKED_MEMORY_MEND, uring_problem
from ringblk.engine.devices.kinds import DEFAULT_KIND, kind_named
from ringblk.engine.doctor.check import CheckResult, failure, ok, warning
from ringblk.engine.drives.making import slot_count
from ringblk.engine.drives.segments import named_segments, segments_of_others
from ringblk.engine.options.drive_config import DriveConfig
from ringblk.engine.supervisor.process_parent import open_pidfd
from ringblk.engine.supervisor.process_setup import DISPATCHER_ENTRIES, WORKER_ENTRIES
from ringblk.shm.platform.kernel_files import memory_lines, sysctl, usable_cpus
from ringblk.shm.platform.shared_memory import FOLDER, IS_IN_MEMORY
from ringblk.shm.queues.inflight_region import make_inflight_region
from ringblk.shm.segments.segment import SegmentError
from ringblk.shm.state.segment import StateSegment
from ringblk.workers.backends.file_waiting import file_system_of
from ringblk.workers.uring.ring import Uring

_SYSCALLS_MEND = "allow {} in the container's seccomp profile"
_MOST_NAMED = 10
_GUEST_BYTES = 1 << 30


class Need(msgspec.Struct, frozen=True):
    """What is to run on this host: an engine with so many drives of these options."""

    drive_count: int
    drive: DriveConfig


def check_io_uring(_: Need) -> CheckResult:
    """A ring, restricted as an engine's are."""
    problem = uring_problem()
    if problem is None:
        return ok("io_uring", "there is one, and it can be restricted")
    return warning("io_uring", f"{problem.what}: workers do blocking I/O, one request each", problem.mend)


def check_locked_memory(need: Need) -> CheckResult:
    """The rings of one drive, all at once."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    limit = "no limit" if soft == resource.RLIM_INFINITY else f"limit {size_text(soft)}"
    if uring_problem() is not None:
        return ok("locked memory", f"{limit}; nothing is to be locked")
    sizes = [DISPATCHER_ENTRIES, *[WORKER_ENTRIES] * need.drive.workers]
    try:
        rings = [Uring(entry_count) for entry_count in sizes]
    except OSError as error:
        what = f"{limit}: no room for the rings of a drive: {error.strerror or error}"
        return failure("locked memory", what, LOCKED_MEMORY_MEND)
    return ok("locked memory", f"{limit}; the {len(rings)} rings of a drive fit in")


def check_open_files(need: Need) -> CheckResult:
    """Descriptors are set apart for all drives, as an engine does it; that raises the soft limit."""
    name = "open files"
    files = OpenFiles(is_sole=need.drive_count == 1)
    try:
        for number in range(need.drive_count):
            files.reserve(str(number), need.drive.workers, need.drive.num_queues)
    except ProgramError as error:
        return failure(name, str(error).partition(f": {OPEN_FILES_MEND}")[0], OPEN_FILES_MEND)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = "no limit" if hard == resource.RLIM_INFINITY else f"{hard} may be open"
    in_use = list(
        itertools.takewhile(lambda drive: not files.admit(drive), map(str, range(need.drive_count)))
    )
    slot_count = files.mem_slot_count(in_use[-1])  # there is room for one at least
    if len(in_use) < need.drive_count:
        what = f"{limit}: enough for {need.drive_count} drives, and for a front end at {len(in_use)} of them"
        return warning(name, what, OPEN_FILES_MEND)
    what = f"{limit}: enough for {slot_count} memory slots a drive"
    if slot_count < MAX_MEM_SLOTS and need.drive_count == 1:
        return warning(name, f"{what}, of {MAX_MEM_SLOTS}", OPEN_FILES_MEND)
    return ok(name, what)


def check_shared_memory(need: Need) -> CheckResult:
    """A segment as a drive has one, and room for as many as there are to be."""
    kind, queue_size = kind_named(DEFAULT_KIND), need.drive.queue_size
    name = f"ringblk-doctor-{os.getpid()}"
    try:
        state = StateSegment.create(name, slot_count(need.drive), queue_size, kind.name, kind.operations)
    except SegmentError as error:
        what, _, hint = str(error).partition("; ")
        return failure("shared memory", what, hint or f"mount -t tmpfs -o mode=1777 tmpfs {FOLDER}")
    try:
        state.open_slots()  # as for a guest
    except OSError as error:
        state.close()
        what, _, hint = str(error.strerror).partition("; ")
        return failure("shared memory", f"no room for a guest: {what}", hint)
    try:
        segment_bytes = os.fstat(state.fileno()).st_size
        system = os.fstatvfs(state.fileno())
        kind_of_system = file_system_of(state.fileno())
        free_bytes = system.f_bavail * system.f_frsize + segment_bytes
    finally:
        state.close()
    room = f"{size_text(free_bytes)} of {size_text(system.f_blocks * system.f_frsize)} free in {FOLDER}"
    wanted = f"{size_text(segment_bytes)} a drive"
    if free_bytes < need.drive_count * segment_bytes:
        wanted_mebibytes = -(-2 * need.drive_count * segment_bytes >> 20)
        mend = (
            f"mount -o remount,size={wanted_mebibytes}M {FOLDER}"
            if IS_IN_MEMORY
            else f"make room in {FOLDER}"
        )
        return failure("shared memory", f"{room}: too little for {need.drive_count} drives, {wanted}", mend)
    if IS_IN_MEMORY and kind_of_system not in ("tmpfs", "ramfs"):
        mend = f"mount -t tmpfs -o mode=1777 tmpfs {FOLDER}"
        return warning("shared memory", f"{FOLDER} is not in memory but on {kind_of_system}", mend)
    return ok("shared memory", f"{room}, {wanted}")


def check_engines(_: Need) -> CheckResult:
    """Engines whose segments stand in the shared memory folder; those of other users are not looked into."""
    segments = named_segments()
    held = [segment.pid for segment in segments if segment.is_held()]
    texts = [f"{len(held)} of this user" if os.geteuid() else str(len(held))]
    if held:
        named = ", ".join(str(pid) for pid in held[:_MOST_NAMED])
        texts[0] += f" (processes {named}{', ...' if len(held) > _MOST_NAMED else ''})"
    if others := segments_of_others():
        users = ", ".join(str(uid) for uid in sorted(set(others.values())))
        texts.append(f"{len(others)} of other users ({users})")
    if left := len(segments) - len(held):
        texts.append(f"{left} that were killed, whose segments the next one removes")
    return ok("running engines", "; ".join(texts))


def check_pidfd(_: Need) -> CheckResult:
    """What an engine watches its processes by."""
    try:
        os.close(open_pidfd(os.getpid()))
    except OSError as error:
        calls = _SYSCALLS_MEND.format("pidfd_open and pidfd_send_signal")
        return failure("process descriptors", str(error.strerror or error), f"Linux 5.3 or later; {calls}")
    return ok("process descriptors", "pidfd_open works")


def check_memfd(_: Need) -> CheckResult:
    """Memory that cannot be cut off: the in-flight record that a front end keeps is in one."""
    try:
        os.close(make_inflight_region(1, 128)[0])
    except OSError as error:
        what = f"no in-flight record can be made: {error.strerror or error}"
        if error.errno == errno.EACCES and sysctl("vm/memfd_noexec") == "2":
            what += ": sysctl vm.memfd_noexec is 2"
            return failure("sealed memory", what, "sysctl -w vm.memfd_noexec=1")
        return failure("sealed memory", what, _SYSCALLS_MEND.format("memfd_create and fcntl"))
    return ok("sealed memory", "memfd_create and seals work")


def check_huge_pages(_: Need) -> CheckResult:
    """For QEMU's guest memory, where that is wanted; a drive takes whatever memory is shared with it."""
    found = _memory_info()
    size_bytes = found.get("Hugepagesize", 0) << 10
    if not size_bytes:
        return ok("huge pages", "this kernel has none")
    pages = _GUEST_BYTES // size_bytes
    total, free = found.get("HugePages_Total", 0), found.get("HugePages_Free", 0)
    ask = f"{size_text(_GUEST_BYTES)} of guest memory takes {pages} (sysctl -w vm.nr_hugepages={pages})"
    return ok("huge pages", f"{free} of {total} free, {size_text(size_bytes)} each; {ask}")


def _memory_info() -> dict[str, int]:
    """In KiB or pages; empty where it cannot be read."""
    lines = [line.replace(":", "").split() for line in memory_lines()]
    return {words[0]: int(words[1]) for words in lines}


def check_cores(_: Need) -> CheckResult:
    """Those that this process may run on."""
    total = os.cpu_count() or 1
    count = len(usable_cpus()) or total
    if count == 1:
        mend = "give engine and guest two or more (taskset, AllowedCPUs=, a container's cpuset)"
        return warning("cores", "one: guest, dispatcher and workers take turns", mend)
    return ok("cores", f"{count} of {total} may be used")


HostCheck = Callable[[Need], CheckResult]
