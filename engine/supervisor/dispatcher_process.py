"""The dispatcher's process: started, watched, replaced, fenced."""

import asyncio
import logging
import os
from collections.abc import Callable

from ringblk.engine.base.restart_limit import RestartLimit
from ringblk.engine.dispatcher.messages import Answer, FromDispatcher, Recover, Report, Sync, WorkersWanted
from ringblk.engine.supervisor.child import Child, describe_end, was_own_fault
from ringblk.engine.supervisor.child_ring import ChildRing
from ringblk.engine.supervisor.dispatcher_link import DispatcherLink
from ringblk.engine.supervisor.drive_model import Sent
from ringblk.engine.supervisor.kept_parts import KeptParts, listen_for_adoption
from ringblk.engine.supervisor.kept_processes import AdoptedProcesses, ProcessesKeeper
from ringblk.engine.supervisor.process_setup import DISPATCHER_ENTRIES, ProcessSetup
from ringblk.engine.supervisor.second_custody import SecondCustody
from ringblk.engine.zygote.messages import DispatcherRole
from ringblk.shm.platform.wakeups import make_wakeup

_log = logging.getLogger(__name__)


class DispatcherProcess:
    """The one dispatcher of a drive, one process after the other in its place.

    One that died is reaped and fenced; then its successor is told everything again, and goes on.
    """

    def __init__(
        self,
        setup: ProcessSetup,
        told: Callable[[], Sent],
        report: Callable[[Report | WorkersWanted], None],
        fail: Callable[[str], None],
        adopted: AdoptedProcesses | None = None,
    ) -> None:
        """`told` gives all that a new one must be told; `report` takes what is no answer.

        `fail` is called with the reason when there can be no dispatcher any more.
        """
        self._setup = setup
        self._told = told
        self._report = report
        self._fail = fail
        self._child: Child[FromDispatcher] | None = None
        entry_count = DISPATCHER_ENTRIES if setup.plan.uses_dispatcher_uring else 0
        self._ring = ChildRing("dispatcher", entry_count, setup.backend)
        self._limit = RestartLimit()
        self._is_ending = False
        self._is_renewed = False  # it is killed for another to take its place
        self._replacement: asyncio.Task[None] | None = None
        self.eventfd = make_wakeup() if adopted is None else adopted.eventfd
        """Wakes whichever process it is."""
        self.link = DispatcherLink(setup.state, self.eventfd)
        second = None
        if setup.custodian is not None:
            second = SecondCustody(setup.custodian, setup.state.fileno())
        self.parts = KeptParts(self.link, second)
        """What it keeps."""
        self.keeper: ProcessesKeeper | None = None
        """Where a drive's processes outlive this one."""
        if setup.is_kept:
            listening = listen_for_adoption(setup.state.fileno()) if adopted is None else adopted.listening
            self.keeper = ProcessesKeeper(setup, self.parts, self.eventfd, listening)

    @property
    def child(self) -> Child[FromDispatcher] | None:
        """Its process, while there is one."""
        return self._child

    def start(self) -> None:
        """Start the first one."""
        self._start(own_fault=False, is_restart=False)

    def _start(self, *, own_fault: bool, is_restart: bool) -> None:
        """Start a process; `own_fault` says how the former one ended, which was reaped and fenced."""
        setup = self._setup
        role = DispatcherRole(
            inline_limit_ns=setup.plan.inline_limit_ns,
            poll_ns=setup.config.poll_us * 1000,
            chain_limit=setup.config.queue_size,
            adopter_ids=tuple({0, os.geteuid()}) if self.keeper is not None else (),
        )
        fds = {"eventfd": self.eventfd}
        if self.keeper is not None:
            fds["adoption"] = self.keeper.listening_fd
        child: Child[FromDispatcher] = self._ring.start(setup, "rb-dispatcher", role, fds, FromDispatcher)
        self._child = child
        if self.keeper is not None:
            self.keeper.note_dispatcher(child)
        setup.state.set_dispatcher(child.pid, is_restart)
        child.watch(self._ended, self._hear)
        self.link.connect(child, self._told, self.parts.messages, Recover(own_fault))

    def adopt(self, child: Child[FromDispatcher]) -> None:
        """Go on with one that another control plane has started, and that serves a front end."""
        self._child = child
        self._ring.adopt(child)
        self._setup.state.set_dispatcher(child.pid)
        child.watch(self._ended, self._hear)
        self.link.go_on(child)

    def _hear(self, message: FromDispatcher) -> None:
        if not isinstance(message, Answer):
            self._report(message)
            return
        if message.error and message.request_id == 0:
            self._fail(f"a new dispatcher cannot go on: {message.error}")
        self.link.take_answer(message)

    def _ended(self, _: Child[FromDispatcher], status: int | None) -> None:
        self._child = None
        self._setup.state.set_dispatcher(0)
        self.link.disconnect()
        if self._is_ending:
            return
        own_fault = was_own_fault(status)
        count = self._setup.done_count()
        if self._is_renewed:
            self._is_renewed = False
            _log.info("the dispatcher makes room for one of this program")
        else:
            _log.warning("the dispatcher died: %s; starting another", describe_end(status))
        if not self._limit.allows(count, count, own_fault):
            self._fail("the dispatcher dies again and again without completing a request")
            return
        self._replacement = asyncio.get_running_loop().create_task(self._replace(own_fault))

    async def _replace(self, own_fault: bool) -> None:
        """It was reaped: nothing of its work may land any more when the next one begins."""
        try:
            await self._ring.fence()
            if not self._is_ending:
                self._start(own_fault=own_fault, is_restart=True)
        except OSError as error:
            self._fail(f"cannot start another dispatcher: {error}")

    def retell(self) -> None:
        """Put another in its place, which is told how things are: this one may know a part of it."""
        if self._child is not None:
            self._child.kill()

    async def renew(self) -> None:
        """Put another in its place; returns when that has answered. Raises `DispatcherGone`."""
        if (child := self._child) is not None:
            self._is_renewed = True
            child.kill()
            await child.ended.wait()
        await self.link.ask(Sync)

    def stop(self) -> None:
        """Ask it to end; nothing is in flight."""
        self._is_ending = True
        self.link.stop()

    def kill(self) -> None:
        """End it at once. Whoever waits for an answer gets `DispatcherGone`."""
        self._is_ending = True
        self.link.close()
        if self._child is not None:
            self._child.kill()

    def close(self) -> None:
        """Close what is left when it has ended."""
        if self._replacement is not None:
            self._replacement.cancel()
        self._ring.close()
        self.parts.close()
        if self.keeper is not None:
            self.keeper.close()
        os.close(self.eventfd)
