"""The table of docs/faults.md, row by row, as it is of a shared folder; deaths are in test_share_kills."""

import errno
import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ringblk import BackendGone
from tests.rigs.engine_rig import Engine, eventually
from tests.rigs.mock_driver import DESC_F_NEXT, MockDriver
from tests.rigs.python_share import Served
from tests.rigs.share import GETATTR, ROOT, ShareError, ShareFrontend, errno_of, share_engine

is_root = pytest.mark.skipif(os.geteuid() != 0, reason="files are opened by their handles: root only")


@pytest.fixture
def engine(shm_path: Path) -> Iterator[Engine]:
    """It shares a folder with a file."""
    (shm_path / "file").write_bytes(b"contents")
    with share_engine(shm_path, "--io-engine=sync") as engine:
        yield engine


def too_many_requests(driver: MockDriver) -> None:
    driver.avail_idx += driver.queue_size + 1


def next_out_of_range(driver: MockDriver) -> None:
    driver.descriptor(0, driver.gpa_base, 40, DESC_F_NEXT, driver.queue_size)
    driver.offer(0)


@is_root
@pytest.mark.parametrize("corrupt", [too_many_requests, next_out_of_range])
@pytest.mark.parametrize("queue_index", [0, 1])
def test_a_corrupt_ring(engine: Engine, queue_index: int, corrupt: Callable[[MockDriver], None]) -> None:
    """A corrupt ring, of a shared folder: the other queue lives on, and the guest has lost nothing."""
    guest = ShareFrontend(engine)
    node_id = guest.lookup("file").node_id
    bad = guest.frontend.queues[queue_index]
    corrupt(bad.driver)
    bad.kick()
    line = f"queue {queue_index} is broken until it is reset"
    eventually(lambda: line in engine.log(), line)
    guest.queue_index = 1 - queue_index
    assert guest.read(node_id, 8) == b"contents"
    bad.driver.start_at(bad.driver.used_idx)
    guest.connection.get_vring_base(queue_index)
    guest.frontend.start_queue(queue_index)
    guest.queue_index = queue_index
    assert guest.read(node_id, 8) == b"contents"
    guest.forget(node_id)
    guest.close()


@is_root
def test_a_bad_message(engine: Engine) -> None:
    """A bad message from the front end, of a shared folder: that session ends, the next guest is served."""
    children = engine.children()
    guest = ShareFrontend(engine)
    guest.lookup("file")
    guest.connection.socket.sendall(b"\x01\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00")  # version 2
    with pytest.raises(BackendGone):
        guest.connection.get_features()
    assert "the vhost-user session ends: " in engine.log()
    guest.frontend.connection.close()
    guest = ShareFrontend(engine)
    assert guest.read(guest.lookup("file").node_id, 8) == b"contents"
    guest.close()
    assert engine.children() == children


@is_root
def test_a_host_that_takes_no_more(engine: Engine, shm_path: Path) -> None:
    """A host I/O error, of a shared folder: what the host says is the answer, and later requests go on."""
    guest = ShareFrontend(engine)
    (pid,) = engine.children()
    node_id = guest.lookup("file").node_id
    limits = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, limits[1]))
    with pytest.raises(ShareError) as refused:
        guest.write(node_id, b"more", 4096)
    assert refused.value.errno == errno.EFBIG
    assert guest.write(node_id, b"C") == 1
    resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)
    assert guest.write(node_id, b"more", 4096) == 4
    assert (shm_path / "file").read_bytes()[4096:] == b"more"
    assert guest.read(node_id, 8) == b"Contents"
    guest.close()


def test_an_error_of_a_class(start: Callable[..., Served], tmp_path: Path) -> None:
    """A host I/O error, of a shared folder that is a class: EIO, counted, and a line in the log."""
    served = start(
        "--file-system=gated_folder:FailingFolder",
        f"--file-system-arg=gate={tmp_path / 'gate'}",
        "--workers=1",
    )
    node_id = served.guest.lookup("file").node_id
    with pytest.raises(ShareError) as refused:
        served.guest.read(node_id, 10)
    assert refused.value.errno == errno.EIO
    eventually(lambda: "nothing comes back" in served.engine.log(), "the line in the log")
    assert served.guest.getattr(node_id).size == 4096


@is_root
def test_processes_that_die_again_and_again(engine: Engine) -> None:
    """A drive fails, of a shared folder: its engine ends with status 1, and leaves nothing but the folder."""
    guest = ShareFrontend(engine)
    guest.lookup("file")
    killed: set[int] = set()

    def kill_children() -> bool:
        for pid in engine.children() - killed:
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
        return engine.process.poll() is not None

    eventually(kill_children, "the engine's end")
    assert engine.process.returncode == 1
    assert "the dispatcher dies again and again" in engine.log()
    engine.assert_nothing_left(killed)
    guest.frontend.connection.close()


@is_root
def test_the_supervisor_dies(engine: Engine, shm_path: Path) -> None:
    """The supervisor dies, of a shared folder: the next guest finds all that was answered."""
    guest = ShareFrontend(engine)
    made = guest.create("made")
    guest.write(made.node_id, b"answered")
    engine.end(signal.SIGKILL)
    guest.frontend.connection.close()
    with share_engine(shm_path) as after:
        guest = ShareFrontend(after)
        assert errno_of(GETATTR, guest, made.node_id, bytes(16), 104) == "ESTALE"
        assert guest.lookup("made").node_id == made.node_id
        assert guest.read(made.node_id, 100) == b"answered"
        assert sorted(guest.names_in(ROOT)) == ["file", "made"]
        guest.close()
