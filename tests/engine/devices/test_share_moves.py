"""A guest moves with a shared folder: what it knows at one engine, it knows at the next.

Fault model: the folder is the same, or a copy; somebody else changes it meanwhile; the state is cut off, of
another form, or of a guest that has agreed to more; the front end gives no pipe, does not read, or hangs up;
processes of the engine that the guest comes to are killed. What is found is what it was, each lookup is
forgotten as often as it was counted, and what cannot be found is ESTALE.
"""

import errno
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from ringblk.engine.frontend.connection import FrontendConnection
from ringblk.engine.vhost_user.codes import ProtocolFeature, StateDirection
from ringblk.workers.fs.moved_state import MovedFolder, decode_folder, encode_folder
from tests.rigs.engine_rig import Engine, RawFrontend, eventually
from tests.rigs.moving_share import MovingShare, StateRefusedThere
from tests.rigs.python_share import Served, kept
from tests.rigs.share import GETATTR, ROOT, share_engine

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="files are opened by their handles: root only")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("moves") / "share"
    (folder / "below").mkdir(parents=True)
    (folder / "below" / "file").write_bytes(b"as it was")
    (folder / "link").symlink_to("below/file")
    return folder


@pytest.fixture(scope="module")
def engines(folder: Path) -> Iterator[tuple[Engine, Engine]]:
    with share_engine(folder) as source, share_engine(folder) as target:
        yield source, target


def stale(guest: MovingShare, node_id: int) -> bool:
    return guest.try_to(GETATTR, node_id, bytes(16), room=104)[0] == errno.ESTALE


def test_a_guest_that_moves_knows_what_it_knew(engines: tuple[Engine, Engine]) -> None:
    source, target = engines
    guest = MovingShare(source)
    below, link = guest.lookup("below"), guest.lookup("link")
    file = guest.walk("below/file")  # twice, with the folder's own
    guest.lookup("file", below.node_id)
    made = guest.create("made", below.node_id)
    guest.write(made.node_id, b"before the move")
    for engine in (target, source, target):
        guest.move(engine)
        assert guest.getattr(file.node_id) == file.attr
        assert guest.read(file.node_id, 100) == b"as it was"
        assert guest.readlink(link.node_id) == "below/file"
        assert {"file", "made"} <= set(guest.names_in(below.node_id))
    assert guest.lookup("made", below.node_id).node_id == made.node_id
    guest.write(made.node_id, b" and after it", 15)
    assert guest.read(made.node_id, 100) == b"before the move and after it"
    guest.forget(file.node_id, 1)
    assert not stale(guest, file.node_id)  # it was told of it twice
    guest.forget(file.node_id, 1)
    assert stale(guest, file.node_id)
    guest.close()


def test_a_guest_that_has_not_begun_begins_at_the_next_engine(engines: tuple[Engine, Engine]) -> None:
    guest = MovingShare(engines[0], begins=False)
    guest.move(engines[1])
    guest.begin()
    assert guest.lookup("below").node_id != ROOT
    guest.close()


def test_what_a_guest_knew_before_another_came_is_forgotten(engines: tuple[Engine, Engine]) -> None:
    source, target = engines
    at_target = MovingShare(target)
    link = at_target.lookup("link")
    at_target.close()
    guest = MovingShare(source)
    below = guest.lookup("below")
    guest.move(target)
    assert stale(guest, link.node_id)
    assert not stale(guest, below.node_id)
    guest.close()


def test_files_that_somebody_renamed_are_found_by_their_handles(
    folder: Path, engines: tuple[Engine, Engine]
) -> None:
    source, target = engines
    guest = MovingShare(source)
    (folder / "to be renamed").write_bytes(b"as it was")
    file = guest.lookup("to be renamed")
    guest.stop()
    data = guest.save()
    (folder / "to be renamed").rename(folder / "below" / "elsewhere")
    (folder / "to be renamed").write_bytes(b"another")
    guest.connect(target)
    guest.load(data)
    guest.go_on()
    assert guest.read(file.node_id, 100) == b"as it was"
    guest.close()


def test_a_copied_folder_is_gone_through_by_paths(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    with share_engine(folder) as source:
        guest = MovingShare(source)
        file, link = guest.walk("below/file"), guest.lookup("link")
        gone = guest.create("gone")
        guest.stop()
        data = guest.save()
        shutil.copytree(folder, copy, symlinks=True)
        (copy / "gone").unlink()
        # A file system of another kind has other handles; those of this one are made unknown.
        moved = decode_folder(data)
        data = encode_folder(
            msgspec.structs.replace(
                moved,
                inodes=[msgspec.structs.replace(inode, handle=b"\xff" * 12) for inode in moved.inodes],
            )
        )
        with share_engine(copy) as target:
            guest.connect(target)
            guest.load(data)
            guest.go_on()
            assert guest.read(file.node_id, 100) == b"as it was"
            guest.write(file.node_id, b"IN COPY")
            assert guest.readlink(link.node_id) == "below/file"
            assert stale(guest, gone.node_id)
            guest.close()
    assert (copy / "below" / "file").read_bytes() == b"IN COPYas"
    assert (folder / "below" / "file").read_bytes() == b"as it was"


def test_a_file_system_of_a_class_moves(tmp_path: Path) -> None:
    source, target = Served(*kept(tmp_path)), Served(*kept(tmp_path))
    target.guest.close()
    source.guest.close()
    guest = MovingShare(source.engine)
    made = guest.create("made")
    guest.write(made.node_id, b"text")
    guest.move(target.engine)
    assert guest.read(made.node_id, 100) == b"text"
    guest.close()
    source.engine.__exit__(None, None, None)
    target.engine.__exit__(None, None, None)


def test_a_guest_that_has_agreed_to_more_is_refused_and_goes_on_where_it_was(folder: Path) -> None:
    with share_engine(folder, "--writeback") as source, share_engine(folder) as target:
        guest = MovingShare(source)
        file = guest.walk("below/file")
        guest.stop()
        data = guest.save()
        coming = MovingShare(target, begins=False)
        coming.stop()
        with pytest.raises(StateRefusedThere):
            coming.load(data)
        assert "start it with the options of the engine that the guest leaves" in target.log()
        coming.close()
        guest.go_on()
        assert guest.read(file.node_id, 100) == b"as it was"
        guest.close()


@pytest.mark.parametrize("damage", ["empty", "cut", "other form", "next version", "wrong inode"])
def test_a_damaged_state_is_refused_in_one_line(engines: tuple[Engine, Engine], damage: str) -> None:
    source, target = engines
    guest = MovingShare(source)
    guest.walk("below/file")
    guest.stop()
    folder = decode_folder(data := guest.save())
    assert isinstance(folder, MovedFolder)
    damaged = {
        "empty": b"",
        "cut": data[:-1],
        "other form": msgspec.msgpack.encode({"form": "virtiofsd", "version": 1}),
        "next version": encode_folder(msgspec.structs.replace(folder, version=2)),
        "wrong inode": encode_folder(
            msgspec.structs.replace(folder, inodes=[msgspec.structs.replace(folder.inodes[0], node_id=ROOT)])
        ),
    }[damage]
    guest.connect(target)
    with pytest.raises(StateRefusedThere):
        guest.load(damaged)
    assert "the device's state was not moved" in target.log()
    guest.load(data)  # the next may do
    guest.go_on()
    assert guest.walk("below/file").attr.size == 9
    guest.close()


def test_a_state_is_moved_while_queues_stand(engines: tuple[Engine, Engine], tmp_path: Path) -> None:
    guest = MovingShare(engines[0])
    with pytest.raises(StateRefusedThere):
        guest.save()
    guest.stop()
    (tmp_path / "no pipe").write_bytes(b"")
    with open(tmp_path / "no pipe", "r+b") as file:
        assert guest.ask_state(StateDirection.SAVE, file.fileno()) & 0xFF
    ours, theirs = os.pipe()
    assert guest.ask_state(2, theirs) & 0xFF
    assert guest.ask_state(StateDirection.SAVE, theirs, phase=1) & 0xFF
    assert guest.check_state()  # nothing was begun
    os.close(ours)
    os.close(theirs)
    guest.go_on()
    assert guest.walk("below/file").attr.size == 9
    guest.close()


def test_a_front_end_that_reads_and_writes_nothing_holds_up_nobody(engines: tuple[Engine, Engine]) -> None:
    source, _ = engines
    supervisor_fds = Path(f"/proc/{source.process.pid}/fd")
    guest = MovingShare(source)
    for number in range(1000):  # more than a pipe takes
        guest.create(f"file {number}")
    guest.stop()
    count = len(list(supervisor_fds.iterdir()))
    for direction in (StateDirection.SAVE, StateDirection.LOAD, StateDirection.SAVE):
        pipe = os.pipe()
        guest.ask_state(direction, pipe[direction == StateDirection.SAVE])
        guest.close()
        guest = MovingShare(source, begins=False)
        guest.stop()
        for fd in pipe:
            os.close(fd)
    eventually(lambda: len(list(supervisor_fds.iterdir())) <= count, "all pipes closed")
    guest.close()


def test_what_was_taken_outlives_the_dispatcher(engines: tuple[Engine, Engine]) -> None:
    source, target = engines
    guest = MovingShare(source)
    file = guest.walk("below/file")
    guest.stop()
    data = guest.save()
    guest.connect(target)
    guest.load(data)
    for pid in target.children():
        os.kill(pid, signal.SIGKILL)
    guest.go_on()
    assert guest.read(file.node_id, 100) == b"as it was"
    guest.close()


def test_a_disk_has_no_state_of_its_own(image: Path) -> None:
    with Engine(f"--blk-file={image}") as engine:
        frontend = RawFrontend(engine)
        connection: FrontendConnection = frontend.connection
        connection.set_owner()
        connection.get_features()
        connection.negotiate_protocol_features(ProtocolFeature.REPLY_ACK | ProtocolFeature.DEVICE_STATE)
        assert ProtocolFeature.DEVICE_STATE not in connection.protocol_features
        frontend.close()
