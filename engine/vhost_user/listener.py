"""Where front ends come from: a listening socket of our own, or one that was inherited."""

import contextlib
import errno
import logging
import os
import socket
import stat
from collections.abc import AsyncIterator, Callable

from ringblk.engine.base.exit_status import ExitStatus
from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.vhost_user.descriptor_seal import take_inline
from ringblk.engine.vhost_user.folder_lock import folder_lock
from ringblk.engine.vhost_user.socket_keeper import NOTHING_KEPT, SocketKeeper
from ringblk.engine.vhost_user.waiting_frontends import WaitingFrontends, turn_away
from ringblk.shm.platform.descriptors import PATH_ONLY, bind_in

MAX_PATH_BYTES = 107
"""sun_path of struct sockaddr_un, without the zero at its end (unix(7))."""
BACKLOG = 8
"""How many may wait to be accepted."""

_log = logging.getLogger(__name__)


class Listener:
    """Gives one connected socket after the other."""

    def __init__(self, end: socket.socket, place: str, socket_path: str | None = None) -> None:
        self._socket = end
        self._socket.setblocking(False)
        self._place = place
        self._keeper: SocketKeeper = NOTHING_KEPT
        self._came: list[socket.socket] = []  # front ends that a process before this one has accepted
        self._waiting: WaitingFrontends | None = None
        self._own_path = socket_path
        self._own_identity = socket_identity(socket_path) if socket_path else None

    @classmethod
    def at_path(cls, socket_path: str, keeper: SocketKeeper = NOTHING_KEPT) -> "Listener":
        """Listen on a unix socket, in place of one whose owner is gone. Raises `ProgramError`.

        It goes on with what a process before this one has left with the keeper.
        """
        listener = cls(listen_or_go_on("--socket-path", socket_path, keeper), socket_path, socket_path)
        listener.be_kept(keeper)
        return listener

    @classmethod
    def from_fd(cls, fd: int) -> "Listener":
        """Use an inherited unix stream socket. Raises `ProgramError`."""
        try:
            if not stat.S_ISSOCK(os.fstat(fd).st_mode):
                raise ProgramError(f"--fd {fd}: not a socket", ExitStatus.FAILED)
            end = socket.socket(fileno=fd)
        except OSError as error:
            raise ProgramError(f"--fd {fd}: {error.strerror or error}", ExitStatus.FAILED) from error
        if end.family != socket.AF_UNIX or end.type != socket.SOCK_STREAM:
            raise ProgramError(f"--fd {fd}: not a unix stream socket", ExitStatus.FAILED)
        end.set_inheritable(False)
        return cls(end, f"fd {fd}")

    def be_kept(self, keeper: SocketKeeper) -> None:
        """Give front ends that connect into custody, until `settle`; have those that are there."""
        self._keeper = keeper
        self._came = keeper.take_connections(self._place)

    @property
    def is_connected(self) -> bool:
        """Whether the inherited socket is a connection itself, which is served and then over."""
        return not self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)

    async def connections(self, adopted: socket.socket | None = None) -> AsyncIterator[socket.socket]:
        """Connected sockets, each the receiver's to close; the only one if one was inherited.

        The first is `adopted` where there is one: another process has accepted it.
        """
        if self.is_connected:
            take_inline(self._socket)
            yield self._socket.dup()
            return
        if adopted is not None:
            self._came = [end for end in self._came if not self._is_same(end, adopted)]
        waiting = self._waiting = WaitingFrontends(self._socket, self._place, self._keeper, self._came)
        self._came = []
        if adopted is not None:
            yield adopted
        while True:
            yield await waiting.next()

    def _is_same(self, came: socket.socket, adopted: socket.socket) -> bool:
        """Whether both are one connection, whose session has a custody of its own; `came` is closed then."""
        is_same = os.fstat(came.fileno()).st_ino == os.fstat(adopted.fileno()).st_ino
        if is_same:
            self._keeper.let_go(came)
            came.close()
        return is_same

    async def wait_next(self) -> None:
        """Return once another front end waits for its turn; not for an inherited connection."""
        assert self._waiting is not None, "no connection has been asked for"
        await self._waiting.wait()

    def turn_away(self, connected: socket.socket, reason: str) -> None:
        """Close a connection that was given out, and that cannot be served."""
        _log.error("a front end is turned away: %s", reason)
        turn_away(connected, self._keeper)

    def settle(self, connected: socket.socket) -> None:
        """This connection needs no custody any more: its session has another, or begins without one."""
        self._keeper.let_go(connected)

    def call_when_sealed(self, check: Callable[[], None] | None) -> None:
        """Call this when sockets of front ends that wait were sealed (`WaitingFrontends.on_seal`)."""
        if self._waiting is not None:
            self._waiting.on_seal = check

    def close(self) -> None:
        """Close, and remove the socket's name if it is ours still."""
        if self._waiting is not None:
            self._waiting.close()
            self._waiting = None
        for connected in self._came:
            turn_away(connected, self._keeper)
        self._came = []
        if self._own_path is not None:
            remove_socket(self._own_path, self._own_identity)
        self._keeper.let_go(self._socket)
        self._socket.close()


def listen_or_go_on(
    option: str, socket_path: str, keeper: SocketKeeper, *, mode_mask: int | None = None
) -> socket.socket:
    """Go on with the socket that a process before this one has left with the keeper, or `listen_at`."""
    end = keeper.take_listening(socket_path)
    if end is None:
        end = listen_at(option, socket_path, mode_mask=mode_mask)
        with contextlib.suppress(OSError):  # its name has gone at once: nobody comes to it
            keeper.keep(end, socket_path, socket_identity(socket_path))
    return end


def listen_at(option: str, socket_path: str, *, mode_mask: int | None = None) -> socket.socket:
    """Listen on a unix socket, in place of one whose owner is gone.

    Raises `ProgramError`, naming the option. `mode_mask` is a umask for the socket's name.
    """
    with folder_lock(socket_path):  # else another's new socket might be taken for the dead one
        end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        former_mask = os.umask(mode_mask) if mode_mask is not None else None
        try:
            _remove_dead_socket(socket_path)
            end.bind(socket_path)
            end.listen(BACKLOG)
        except OSError as error:
            end.close()
            obstacle = _obstacle(socket_path) if error.errno == errno.EADDRINUSE else None
            reason = f"{obstacle} is in the way" if obstacle else error.strerror or error
            raise ProgramError(f"{option} {socket_path}: {reason}", ExitStatus.FAILED) from error
        finally:
            if former_mask is not None:
                os.umask(former_mask)
        return end


def remove_socket(socket_path: str, identity: tuple[int, int] | None) -> None:
    """Remove a socket's name if it is still that of this one, which must be open: so nobody has its inode."""
    with folder_lock(socket_path), contextlib.suppress(OSError):
        if identity is not None and socket_identity(socket_path) == identity:
            os.unlink(socket_path)


def socket_identity(path: str) -> tuple[int, int]:
    """What tells the socket of that name from all others, for as long as it is open."""
    info = os.stat(path)
    return info.st_dev, info.st_ino


def check_listening_at(option: str, socket_path: str) -> None:
    """Look whether `listen_at` will work once nobody listens there any more. Raises `ProgramError`."""
    if len(os.fsencode(socket_path)) > MAX_PATH_BYTES:
        raise ProgramError(f"{option} {socket_path}: longer than {MAX_PATH_BYTES} bytes", ExitStatus.FAILED)
    if obstacle := _obstacle(socket_path):
        raise ProgramError(f"{option} {socket_path}: {obstacle} is in the way", ExitStatus.FAILED)
    try:
        _try_binding_in(os.path.dirname(socket_path) or ".")
    except OSError as error:
        raise ProgramError(f"{option} {socket_path}: {error.strerror or error}", ExitStatus.FAILED) from error


def _try_binding_in(folder: str) -> None:
    """Bind a socket there by a name of its own, through a descriptor: the path may be as long as it likes."""
    folder_fd = os.open(folder, PATH_ONLY | os.O_DIRECTORY)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as end:
            name = f".ringblk-{os.urandom(8).hex()}"  # in a folder of everybody's nobody may guess it
            bind_in(end, folder_fd, name)
            os.unlink(name, dir_fd=folder_fd)
    finally:
        os.close(folder_fd)


def _remove_dead_socket(socket_path: str) -> None:
    """Unlink a socket that nobody listens on any more; leave everything else to `bind`'s error.

    Raises `OSError` for a dead one that is another user's to remove.
    """
    try:
        if not stat.S_ISSOCK(os.stat(socket_path).st_mode):
            return
    except OSError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a living one whose backlog is full would keep us waiting
        try:
            probe.connect(socket_path)
        except ConnectionRefusedError:
            os.unlink(socket_path)
        except OSError:
            return


def _obstacle(path: str) -> str | None:
    """What is there that is no socket, in words; None for a socket, which somebody listens on."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return "a link to nothing" if os.path.islink(path) else None
    except OSError:
        return None
    if stat.S_ISSOCK(mode):
        return None
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a file" if stat.S_ISREG(mode) else "a device or pipe"
