"""A front end that does not share its guest's memory is told what is the matter, and once."""

import ctypes
import mmap
import os
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

from ringblk.engine.drives.memory_advice import MemoryAdvice, is_mapped_at
from ringblk.engine.frontend.request import BackendGone, BackendRefused
from ringblk.engine.vhost_user.codes import F_PROTOCOL_FEATURES, ProtocolFeature
from ringblk.shm.memory.region import MemoryRegion
from ringblk.shm.platform.process_table import private_mappings
from tests.rigs.child_process import ends_with_tests
from tests.rigs.engine_rig import MEMORY, Engine, RawFrontend, eventually

OPTIONS = (*MEMORY, "--workers=1")
NOTHING_SHARED = (
    "the front end shares no guest memory with this engine; to QEMU's command line add "
    "-object memory-backend-memfd,id=mem,size=SIZE,share=on -machine memory-backend=mem (SIZE is that of -m)"
)
QEMU = shutil.which("qemu-system-x86_64")


def start_without_memory(engine: Engine, *, attempts: int = 1) -> None:
    with RawFrontend(engine) as frontend:
        frontend.negotiate()
        for _ in range(attempts):
            with pytest.raises(BackendRefused):
                frontend.start_queue(0)
            frontend.connection.reset_device()


def test_no_memory_at_all_is_told_once_until_a_queue_has_started() -> None:
    with Engine(*OPTIONS) as engine:
        start_without_memory(engine, attempts=20)
        start_without_memory(engine)
        assert engine.log().count(NOTHING_SHARED) == 1
        assert engine.log().count("WARNING") == 1
        with RawFrontend(engine) as frontend:
            frontend.set_up()
        start_without_memory(engine, attempts=2)
        assert engine.log().count(NOTHING_SHARED) == 2


def test_a_file_that_a_front_end_has_mapped_may_have_any_name(tmp_path: Path) -> None:
    """Else no queue of it would start, and nobody would tell it."""
    with open(os.fsencode(tmp_path) + b"/\xff\r", "w+b") as file:
        file.truncate(4096)
        with mmap.mmap(file.fileno(), 4096, mmap.MAP_PRIVATE):
            inode = os.fstat(file.fileno()).st_ino
            assert inode in [each for _, each in private_mappings(os.getpid())]


def set_up_and_ask(frontend: RawFrontend) -> None:
    """The session may end while the queue is still being set up, or just after."""
    frontend.start_queue(0)
    frontend.connection.get_features()


def test_it_is_told_once_too_where_it_ends_the_session() -> None:
    with Engine(*OPTIONS) as engine:
        for _ in range(5):
            with RawFrontend(engine) as frontend:
                connection = frontend.connection
                features = connection.get_features()
                connection.set_owner()
                connection.negotiate_protocol_features(ProtocolFeature.MQ)  # nobody waits for an answer
                connection.set_features(features | F_PROTOCOL_FEATURES)
                with pytest.raises(BackendGone):
                    set_up_and_ask(frontend)
        assert engine.log().count(NOTHING_SHARED) == 1
        assert engine.log().count("the vhost-user session ends") == 1


def test_rings_in_memory_that_is_not_shared_are_told_apart() -> None:
    with Engine(*OPTIONS) as engine, RawFrontend(engine, num_queues=1, cuts=(0x1000,)) as frontend:
        frontend.negotiate()
        frontend.connection.add_region(frontend.ram.regions[1], frontend.ram.fd)  # not the one with the rings
        for _ in range(3):
            with pytest.raises(BackendRefused):
                frontend.start_queue(0)
            frontend.connection.reset_device()
        (line,) = [line for line in engine.log().splitlines() if "WARNING" in line]
        assert "queue 0: its descriptor table is not within one memory region" in line
        assert "share=on" in line


@pytest.mark.parametrize("is_shared", [False, True])
def test_memory_that_the_front_end_has_a_copy_of_is_told(
    is_shared: bool, caplog: pytest.LogCaptureFixture
) -> None:
    fd = os.memfd_create("guest")
    os.ftruncate(fd, 1 << 20)
    memory = mmap.mmap(fd, 1 << 20, flags=mmap.MAP_SHARED if is_shared else mmap.MAP_PRIVATE)
    view = (ctypes.c_char * len(memory)).from_buffer(memory)
    region = MemoryRegion(gpa=0, size_bytes=1 << 20, uva=ctypes.addressof(view), mmap_offset_bytes=0)
    advice = MemoryAdvice()
    advice.look_for_copies([(region, fd)])
    assert caplog.records == []
    for _ in range(3):
        advice.front_end_pid = os.getpid()
        advice.look_for_copies([(region, fd)])
    assert len(caplog.records) == (0 if is_shared else 1)
    elsewhere = msgspec.structs.replace(region, uva=1 << 46)
    assert not is_mapped_at(private_mappings(os.getpid()), elsewhere.uva, fd)
    assert not is_mapped_at(private_mappings(os.getpid()), region.uva, 0)
    del view
    memory.close()
    os.close(fd)


@pytest.mark.skipif(QEMU is None, reason="no QEMU here")
def test_qemu_without_shared_memory_is_told_what_to_write() -> None:
    with Engine(*OPTIONS) as engine:
        command = [
            str(QEMU),
            *("-machine", "q35,accel=tcg", "-m", "64", "-nodefaults", "-display", "none"),
            *("-chardev", f"socket,id=disk,path={engine.socket_path}"),
            *("-device", "vhost-user-blk-pci,chardev=disk"),  # which the firmware starts
        ]
        with subprocess.Popen(ends_with_tests(command), stderr=subprocess.DEVNULL) as qemu:
            eventually(lambda: NOTHING_SHARED in engine.log(), "the line")
            qemu.kill()
