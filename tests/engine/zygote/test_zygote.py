"""The zygote, asked directly: what it has open, what it answers, how its children begin and end."""

import contextlib
import os
import resource
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringblk.engine.zygote.messages import DispatcherRole, Dropped, DropPrivileges, Refused, WorkerRole
from ringblk.shm.state.segment import StateSegment
from ringblk.shm.sync.channel import ChannelClosed
from ringblk.workers.backends.null import NullBackend
from ringblk.workers.process.messages import Stop
from ringblk.workers.sandbox.confinement import Privileges
from ringblk.workers.sandbox.process_user import ProcessUser
from ringblk.workers.sandbox.sandbox import Sandbox
from tests.rigs.engine_rig import DEADLINE_S, NOBODY, eventually
from tests.rigs.process_tree import children_of, process_name
from tests.rigs.zygote_rig import RigChild, ZygoteRig, fork_message

OPEN_SANDBOX = Sandbox(confines=False)
STANDARD = {0, 1, 2}
MOST_OWN_KIB = 400
"""A child that has not begun has less than 100 KiB of its own, one that runs Python more than 1000."""


@pytest.fixture
def zygote() -> Iterator[ZygoteRig]:
    with ZygoteRig() as rig:
        yield rig


@pytest.fixture
def state() -> Iterator[StateSegment]:
    state = StateSegment.create(f"ringblk-test-{os.getpid()}", 64, 16)
    yield state
    state.close()


def worker_of(zygote: ZygoteRig, state: StateSegment, ring_entries: int = 0) -> RigChild:
    eventfd = os.eventfd(0)
    fds = {"segment": state.fileno(), "eventfd": eventfd, "dispatcher eventfd": eventfd}
    try:
        return RigChild(
            zygote,
            WorkerRole(worker_index=0),
            fds,
            NullBackend(4096),
            None,
            sandbox=OPEN_SANDBOX,
            ring_entries=ring_entries,
        )
    finally:
        os.close(eventfd)


def fds_of(pid: int) -> dict[int, str]:
    found = {}
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it was closed in between
            found[int(path.name)] = os.readlink(path)
    return found


def own_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def test_it_holds_its_channel_and_nothing_of_its_children(zygote: ZygoteRig, state: StateSegment) -> None:
    child = worker_of(zygote, state, ring_entries=8)

    def opened() -> list[str]:
        return sorted(what for fd, what in fds_of(zygote.pid).items() if fd not in STANDARD)

    eventually(lambda: len(opened()) == 2, "its own descriptors")
    assert opened()[0] == "anon_inode:[signalfd]"
    assert opened()[1].startswith("socket:")
    child.channel.send(Stop())
    assert child.wait_end() == 0


GARBAGE = """
import gc, os
gc.disable()
class Garbage:
    def __init__(self):
        self.itself, self.file = self, open(os.devnull)
for _ in range(8):
    Garbage()  # so that the lowest numbers are of garbage
from ringblk.engine.zygote.messages import DropPrivileges
from ringblk.shm.sync.channel import encode_message
from ringblk.engine.zygote.zygote import fork_zygote, take_leave
from ringblk.workers.sandbox.confinement import Privileges
end = fork_zygote()
end.socket.send(encode_message(DropPrivileges(Privileges(confines=False, user=None))))
end.socket.recv(4096)  # it has begun
print(*sorted(os.readlink(f"/proc/{end.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{end.pid}/fd")))
take_leave(end)
"""


def test_garbage_of_the_supervisors_closes_nothing_in_it() -> None:
    """Its numbers are those of the zygote's own descriptors by then: it would hear of no end any more."""
    done = subprocess.run([sys.executable, "-c", GARBAGE], stdout=subprocess.PIPE, text=True, check=True)
    assert "anon_inode:[signalfd]" in done.stdout


def test_a_child_has_what_came_along_and_nothing_else(zygote: ZygoteRig, state: StateSegment) -> None:
    child = worker_of(zygote, state, ring_entries=8)
    eventually(lambda: process_name(child.pid) == "rb-test", "its name")
    opened = [what for fd, what in fds_of(child.pid).items() if fd not in STANDARD]
    kinds = sorted(what.partition(":")[0] if what.startswith("socket") else what for what in opened)
    assert kinds == [
        f"/dev/shm/{state.name}",
        "anon_inode:[eventfd]",
        "anon_inode:[eventfd]",
        "anon_inode:[io_uring]",
        "socket",
    ]
    os.kill(child.pid, signal.SIGKILL)
    assert os.WTERMSIG(child.wait_end()) == signal.SIGKILL


def test_a_child_that_has_not_begun_has_next_to_no_memory(zygote: ZygoteRig, state: StateSegment) -> None:
    children = [worker_of(zygote, state) for _ in range(3)]
    for child in children:
        eventually(lambda pid=child.pid: process_name(pid) == "rb-test", "its name")  # type: ignore[misc]
    assert max(own_kib(child.pid) for child in children) < MOST_OWN_KIB
    for child in children:
        child.channel.send(Stop())
        assert child.wait_end() == 0


def test_a_child_whose_channel_is_closed_before_it_begins_ends_well(
    zygote: ZygoteRig, state: StateSegment
) -> None:
    child = worker_of(zygote, state)
    child.channel.socket.close()
    assert child.wait_end() == 0


@pytest.mark.parametrize("number", [signal.SIGURG, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_that_mean_nothing_to_a_child_do_nothing_before_it_begins(
    zygote: ZygoteRig, state: StateSegment, number: int
) -> None:
    child = worker_of(zygote, state)
    eventually(lambda: process_name(child.pid) == "rb-test", "its name")
    os.kill(child.pid, number)
    child.channel.send(Stop())
    assert child.wait_end() == 0


def test_children_end_with_their_zygote(state: StateSegment) -> None:
    zygote = ZygoteRig()
    children = [worker_of(zygote, state) for _ in range(3)]
    assert set(children_of(zygote.pid)) == {child.pid for child in children}
    os.kill(zygote.pid, signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(zygote.pid, 0)[1]) == signal.SIGKILL
    for child in children:
        assert select.select([child.pidfd], [], [], DEADLINE_S)[0]
    with pytest.raises(ChannelClosed):
        zygote.receive()


def test_a_zygote_ends_with_its_channel(state: StateSegment) -> None:
    zygote = ZygoteRig()
    child = worker_of(zygote, state)
    zygote.close()
    assert select.select([child.pidfd], [], [], DEADLINE_S)[0]


# What it refuses.


def test_a_request_without_descriptors_is_refused(zygote: ZygoteRig) -> None:
    message = fork_message(WorkerRole(worker_index=0), NullBackend(4096), OPEN_SANDBOX)
    answer, _ = zygote.ask(message)
    assert isinstance(answer, Refused)
    assert "Bad file descriptor" in os.strerror(answer.error_number)


def test_descriptors_that_it_has_no_room_for_are_refused(zygote: ZygoteRig, state: StateSegment) -> None:
    eventually(
        lambda: len(fds_of(zygote.pid)) == len(STANDARD) + 2, "nothing left of what it was forked with"
    )
    _, hard = resource.prlimit(zygote.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(zygote.pid, resource.RLIMIT_NOFILE, (max(fds_of(zygote.pid)) + 1, hard))
    message = fork_message(WorkerRole(worker_index=0), NullBackend(4096), OPEN_SANDBOX)
    answer, _ = zygote.ask(message, [state.fileno()] * 200)
    assert isinstance(answer, Refused)
    assert "Too many open files" in os.strerror(answer.error_number)
    eventually(lambda: len(fds_of(zygote.pid)) == len(STANDARD) + 2, "nothing left of them")
    resource.prlimit(zygote.pid, resource.RLIMIT_NOFILE, (hard, hard))
    child = worker_of(zygote, state)
    child.channel.send(Stop())
    assert child.wait_end() == 0


def test_a_ring_that_cannot_be_had_is_refused(zygote: ZygoteRig, state: StateSegment) -> None:
    role = DispatcherRole(inline_limit_ns=0, poll_ns=0, chain_limit=16)
    message = fork_message(role, NullBackend(4096), OPEN_SANDBOX, ring_entries=65535)
    answer, _ = zygote.ask(message, [state.fileno()])
    assert isinstance(answer, Refused)
    assert "Invalid argument" in os.strerror(answer.error_number)
    assert children_of(zygote.pid) == []


# Privileges.


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_it_gives_up_its_privileges_with_all_that_it_forks(zygote: ZygoteRig, state: StateSegment) -> None:
    privileges = Privileges(confines=True, user=ProcessUser(NOBODY, NOBODY, ()))
    answer, _ = zygote.ask(DropPrivileges(privileges))
    assert answer == Dropped("")
    child = worker_of(zygote, state)
    for pid in (zygote.pid, child.pid):
        fields = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        assert fields["Uid"] == "\t".join([str(NOBODY)] * 4)
        assert int(fields["CapEff"], 16) == 0
        assert fields["NoNewPrivs"] == "1"
    answer, _ = zygote.ask(DropPrivileges(Privileges(confines=True, user=ProcessUser(0, 0, ()))))
    assert isinstance(answer, Dropped)
    assert "cannot give up its privileges" in answer.error
    child.channel.send(Stop())
    assert child.wait_end() == 0
