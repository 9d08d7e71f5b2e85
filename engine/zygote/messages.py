"""What the zygote is told, and what it answers.

Arrays, because compiled code reads and writes some of them (fork_server.pyx).
"""

import msgspec

from ringblk.workers.backends.open_storage import OpenStorage
from ringblk.workers.sandbox.confinement import Confinement, Privileges


class DispatcherRole(msgspec.Struct, tag=True, frozen=True, kw_only=True):
    """A drive's dispatcher (`DispatcherSetup`)."""

    inline_limit_ns: int
    poll_ns: int
    chain_limit: int
    adopter_ids: tuple[int, ...] = ()
    """The users as whom another control plane may come, should this one die."""


class WorkerRole(msgspec.Struct, tag=True, frozen=True, kw_only=True):
    """One of a drive's workers (`WorkerSetup`)."""

    worker_index: int


class Fork(msgspec.Struct, tag=True, frozen=True, array_like=True, kw_only=True):
    """Fork a process of a drive. Descriptors come along, in the order of `fd_names`, then the storage's.

    "channel" is the first. The others are those of "segment", "eventfd", "dispatcher eventfd", "rate group",
    "adoption" and "ruleset" that this process needs.
    """

    process_name: str
    """As process listings show it, at most 15 bytes. The zygote itself reads this field and the next."""
    ring_entries: int
    """Of the io_uring that is made for it before the fork, less than 65536; 0: none."""
    drive_in_log: str
    """The drive's name in log lines; empty for the only one."""
    role: DispatcherRole | WorkerRole
    fd_names: tuple[str, ...]
    kind: str
    """The device kind's name (`kind_named`)."""
    request_settings: bytes
    """For the kind's `make_requests`."""
    storage: OpenStorage | None
    """None: the process inherits it."""
    ring_layout: bytes
    """For `Uring.attach`."""
    confinement: Confinement


class Import(msgspec.Struct, tag=True, frozen=True, array_like=True):
    """Import this kind of storage (`import_backend`), for what is forked from now on. No answer."""

    backend: str


class DropPrivileges(msgspec.Struct, tag=True, frozen=True, array_like=True):
    """Everything that needs privileges is open: give them up, you and all that you fork from now on."""

    privileges: Privileges


class KeepConfig(msgspec.Struct, tag=True, frozen=True, array_like=True):
    """Have the next supervisor begin with this configuration: a descriptor comes along. No answer."""


class Leave(msgspec.Struct, tag=True, frozen=True, array_like=True):
    """The supervisor is about to end, and no other is to come. No answer."""


class LetGo(msgspec.Struct, tag=True, frozen=True, array_like=True):
    """No supervisor listens on this inherited socket any more: close it. No answer."""

    fd: int


class KeepSocket(msgspec.Struct, tag=True, frozen=True, array_like=True):
    """Keep this socket for the next supervisor: a descriptor comes along. No answer."""

    identity: bytes
    """Eight bytes that tell it from all others (`socket_number`). The zygote itself reads this field."""
    place: bytes
    """Where front ends come to it: the path of its name, or which inherited socket they come to."""
    device: int
    """Of the file of that name, for a listening socket."""
    inode: int
    is_listening: bool
    """Else it is a front end's connection, and nothing of it was taken in hand."""


class ForgetSocket(msgspec.Struct, tag=True, frozen=True, array_like=True):
    """Close the one that is kept under this identity. No answer."""

    identity: bytes


ToZygote = Fork | Import | DropPrivileges | KeepConfig | Leave | LetGo | KeepSocket | ForgetSocket


class Forked(msgspec.Struct, tag=True, frozen=True, array_like=True):
    """The answer to `Fork`; a pidfd comes along.

    The process has its io_uring under `ring_fd`, for `copy_fd_of`: Linux sends none over sockets.
    """

    pid: int
    ring_fd: int


class Refused(msgspec.Struct, tag=True, frozen=True, array_like=True):
    """The other answer to `Fork`: the host has no process for it."""

    error_number: int


class Unwatched(msgspec.Struct, tag=True, frozen=True, array_like=True):
    """Another: there was a process, but no pidfd, so it was ended."""

    error_number: int


class Ended(msgspec.Struct, tag=True, frozen=True, array_like=True):
    """A process that was forked has ended, and was reaped; its wait status is as in wait(2)."""

    pid: int
    wait_status: int


class Dropped(msgspec.Struct, tag=True, frozen=True, array_like=True):
    """The answer to `DropPrivileges`; `error` is empty where they are gone."""

    error: str


class TakeOn(msgspec.Struct, tag=True, frozen=True, array_like=True):
    """To a supervisor that the zygote has started: go on in the place of one that has died.

    Descriptors come along: of the configuration, of a list of the sockets that it has inherited
    (`left_sockets.py`), and a pidfd of the process that the engine is to end with where it `has_launcher`.
    """

    zygote_pid: int
    has_launcher: bool


FromZygote = Forked | Refused | Unwatched | Ended | Dropped | TakeOn
