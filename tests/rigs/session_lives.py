"""A kept session from its first message to its end, over as many processes as it takes.

The test's process is the front end and the custodian. It looks at one event at a time, so that whoever is
killed may be killed between any two.
"""

import array
import contextlib
import os
import random
import select
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable

import msgspec

from ringblk.engine.vhost_user.messages import HEADER_BYTES, decode_header
from tests.crash.crash_build import ROOT, crash_environment
from tests.crash.crash_plan import CrashPlan
from tests.rigs.session_custody import Custodian, Kept, Live
from tests.rigs.session_script import Message, Script

WAIT_SECONDS = 60  # how long anything may take before a test fails; nothing waits for it to pass
CHANGE_BYTES = HEADER_BYTES


class Outcome(msgspec.Struct):
    """What a session has come to."""

    replies: list[tuple[bytes, list[str]]]
    """Each with what can be read from its descriptors."""
    effects: list[tuple[str, object]]
    notes: list[tuple[str, object]]
    deaths: int = 0


class ScriptedFrontend:
    """Sends a script in pieces of any size, as far ahead of the replies as `depth` says."""

    def __init__(self, end: socket.socket, script: Script, chosen: random.Random) -> None:
        self.socket = end
        self.script = script
        self._random = chosen
        self._depth = chosen.choice((1, 2, 5, 1000))
        self._piece_bytes = chosen.choice((2, 7, 12, 40, 4096))
        self._unsent: deque[Message] = deque(script.messages)
        self._part = b""
        self._whole_bytes = 0
        self._part_fds: tuple[int, ...] = ()
        self._expected = sum(message.has_reply for message in script.messages)
        self._awaited = 0
        self._data = b""
        self._fds: list[str] = []
        self.replies: list[tuple[bytes, list[str]]] = []

    @property
    def wants_to_send(self) -> bool:
        return bool(self._part) or (bool(self._unsent) and self._awaited - len(self.replies) < self._depth)

    @property
    def is_done(self) -> bool:
        """All is answered, and a change of the config space was told."""
        return not self._part and not self._unsent and len(self.replies) == self._expected

    @property
    def unsent_bytes(self) -> int:
        """How much is left of what it has begun to send."""
        return len(self._part)

    def send(self) -> None:
        """Send a piece: the rest of a message, or messages up to the next that has fds."""
        if not self._part:
            first = self._unsent.popleft()
            self._part, self._part_fds, self._awaited = first.data, first.fds, self._awaited + first.has_reply
            while self._unsent and not self._unsent[0].fds and len(self._part) < self._piece_bytes:
                if self._awaited - len(self.replies) >= self._depth:
                    break
                following = self._unsent.popleft()
                self._part += following.data
                self._awaited += following.has_reply
            self._whole_bytes = len(self._part)
        # Not byte by byte: the socket calls itself full with some 70 pieces (unix_writable in Linux).
        size = self._random.randint(1, max(self._piece_bytes, self._whole_bytes // 10))
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", self._part_fds))]
        try:
            sent = self.socket.sendmsg([self._part[:size]], rights if self._part_fds else [])
        except BlockingIOError:
            return
        self._part, self._part_fds = self._part[sent:], ()

    def receive(self) -> None:
        """Take what has come of replies."""
        data, fds, _, _ = socket.recv_fds(self.socket, self._random.choice((5, 4096)), 8)
        assert data, f"the session has ended after {len(self.replies)} of {self._expected} replies"
        for fd in fds:
            self._fds.append(os.pread(fd, 100, 0).decode())
            os.close(fd)
        self._data += data
        while len(self._data) >= HEADER_BYTES:
            size = HEADER_BYTES + decode_header(self._data[:HEADER_BYTES]).payload_bytes
            if len(self._data) < size:
                break
            self.replies.append((self._data[:size], self._fds))
            self._data, self._fds = self._data[size:], []
        assert len(self.replies) <= self._expected, "more replies than were asked for"


class SessionLives:
    """Runs sessions one after the other; each is served by processes that a host forks."""

    def __init__(self, plan: CrashPlan | None = None) -> None:
        self._end, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._host = subprocess.Popen(
                [sys.executable, "-m", "tests.rigs.session_host", str(theirs.fileno())],
                cwd=ROOT,
                env=crash_environment(plan.path) if plan else None,
                pass_fds=[theirs.fileno()],
            )
        self._pidfd = -1

    def close(self) -> None:
        """End the host, which has nobody now."""
        self._end.close()
        assert self._host.wait(WAIT_SECONDS) == 0

    def run(
        self,
        script: Script,
        seed: int,
        is_to_die: Callable[[Custodian], bool],
        replies_wanted: int | None = None,
    ) -> Outcome:
        """One session; after each event the process that serves it is killed if that is to be.

        The front end hangs up when it has had all replies, or as many as it wants.
        """
        chosen = random.Random(seed)
        script.forget_changes()
        custodian = Custodian()
        ours, theirs = socket.socketpair()
        frontend = ScriptedFrontend(ours, script, chosen)
        ours.setblocking(False)
        self._begin(custodian, None, {-1: theirs.fileno()})
        theirs.close()
        deaths = 0
        try:
            while (status := self._step(custodian, frontend)) != 0:
                if status is None:
                    if len(frontend.replies) == replies_wanted:
                        frontend.socket.close()
                    if custodian.states and is_to_die(custodian):
                        with contextlib.suppress(ProcessLookupError):  # it has ended, which is to be seen
                            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
                    continue
                assert status == -signal.SIGKILL, f"a process has ended with {status}"
                os.close(self._pidfd)
                deaths += 1
                custodian.disconnect()
                assert custodian.kept is not None, "killed before anything was kept"
                if custodian.kept.session is None:
                    break
                self._begin(custodian, custodian.kept, custodian.fds)
            else:
                os.close(self._pidfd)
            custodian.disconnect()
            assert custodian.kept is not None
            assert custodian.kept.session is None
            assert not custodian.fds
            notes = custodian.kept.device.notes
            return Outcome(frontend.replies, custodian.effects, notes, deaths)
        finally:
            custodian.close()
            ours.close()

    def _begin(self, custodian: Custodian, kept: Kept | None, fds: dict[int, int]) -> None:
        with custodian.connect() as theirs:
            live = msgspec.msgpack.encode(Live(kept, list(fds)))
            socket.send_fds(self._end, [live], [theirs.fileno(), *fds.values()])
        _, (self._pidfd,), _, _ = socket.recv_fds(self._end, 100, 1)

    def _step(self, custodian: Custodian, frontend: ScriptedFrontend) -> int | None:
        """Wait for one event, and see to it. The exit status, where it is the process's end."""
        poll = select.poll()
        poll.register(self._end, select.POLLIN)
        poll.register(custodian.socket, select.POLLIN)
        if frontend.socket.fileno() >= 0:
            if frontend.is_done and is_told_of_change(frontend.script.channel):
                frontend.socket.close()
            else:
                wanted = select.POLLOUT * frontend.wants_to_send | select.POLLIN
                poll.register(frontend.socket, wanted)
                if frontend.is_done:
                    poll.register(frontend.script.channel, select.POLLIN)
        events = dict(poll.poll(WAIT_SECONDS * 1000))
        so_far = f"{len(frontend.replies)} replies, {frontend.unsent_bytes} bytes unsent"
        assert events, f"nothing happens any more: {so_far}, {custodian.kept}"
        if custodian.socket.fileno() in events and custodian.look():
            return None
        if frontend.socket.fileno() in events:
            if events[frontend.socket.fileno()] & select.POLLIN:
                frontend.receive()
            elif events[frontend.socket.fileno()] & select.POLLOUT:
                frontend.send()
            return None
        if self._end.fileno() in events:
            return int(self._end.recv(100))
        return None


def is_told_of_change(channel: socket.socket) -> bool:
    """Whether a whole message of a change stands there; halves never do."""
    try:
        data = channel.recv(1 << 16, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    assert data, "the channel has ended"
    assert len(data) % CHANGE_BYTES == 0
    return True
