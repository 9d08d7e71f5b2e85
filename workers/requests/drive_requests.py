"""How the requests of one drive are parsed and carried out, whatever kind of device it is."""

from typing import Protocol

from ringblk.shm.memory.guest_memory import GuestMemory
from ringblk.shm.state.segment import StateSegment
from ringblk.workers.requests.request import RequestExecutor, RequestParser


class DriveRequests(Protocol):
    """A device kind as it was set up for one drive, in a process of that drive."""

    def make_parser(self, state: StateSegment, memory: GuestMemory) -> RequestParser:
        """The parser of a dispatcher."""

    def make_executor(self, state: StateSegment, memory: GuestMemory) -> RequestExecutor:
        """The executor of a worker, or of a dispatcher that carries requests out itself."""
