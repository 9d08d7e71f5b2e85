"""A rate limit that several engines share: one limit for all disks of a tenant.

The group is a named segment of POSIX shared memory with a header and a RateLimit. A member holds a shared
flock on it, which the kernel releases when the member's last process is gone, however it went. Whoever gets
the exclusive lock is alone: who joins alone begins the group anew, who leaves alone removes the name.
Joining, leaving and configuring, and nothing else, take a record lock as well, so that one of them happens
at a time; the kernel releases that one too (both go with the open file description). A process of the same
user may hold it for as long as it likes, so nobody waits for it without an end. Drawing tokens takes no lock
at all.

A member that is killed leaves the group as it is for the others. If it was the last, the name stays until
somebody joins again, and begins anew, but for what was set while the group was there before.
"""

import errno
import fcntl
import mmap
import os
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress

import msgspec

from ringblk.shm.platform.file_locks import NONE, WRITE, set_lock
from ringblk.shm.platform.shared_memory import create_named, open_named, reserve, unlink_named
from ringblk.shm.rates.bucket_settings import BucketSettings
from ringblk.shm.rates.limit import STATE_BYTES, RateLimit
from ringblk.shm.rates.limit_settings import RateLimitSettings, changed_buckets
from ringblk.shm.segments.segment import SegmentError, check_segment_file, open_segment
from ringblk.shm.segments.two_slots import RECORD_BYTES, newest, next_slot
from ringblk.shm.sync.process import crash_point

MAGIC = b"RINGRATE"
VERSION = 2
HEADER_BYTES = 64  # magic, version (u32), size of the state (u32), zeros
SETTINGS_OFFSET_BYTES = mmap.PAGESIZE  # the settings in words (two_slots.py), behind header and state
SEGMENT_BYTES = SETTINGS_OFFSET_BYTES + RECORD_BYTES
LOCK_WAIT_S = 2.0
"""How long to wait for the record lock; who holds it needs it for a moment."""
_NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")

_LOOK_S = 0.001


class RateGroupError(Exception):
    """The group cannot be joined: take another name, or end the engines of another version that use it."""


class RateGroupBusy(RateGroupError):  # noqa: N818
    """Another process has the group locked: try again, and if it never lets go, end it (lslocks shows it)."""


def group_name_fault(name: str) -> str | None:
    """What is wrong with a group's name; None where nothing is."""
    return None if _NAME_PATTERN.fullmatch(name) else "a name is letters, digits, '_', '.' and '-'"


class GroupSettings(msgspec.Struct, frozen=True):
    """What the group was created with and what holds now; written by who has the record lock."""

    given: RateLimitSettings
    current: RateLimitSettings


class RateGroup:
    """Membership in the group `name`. The first member's settings hold until configure()."""

    def __init__(
        self,
        name: str,
        settings: RateLimitSettings,
        now_ns: int,
        trusted_users: Collection[int] = (),
        *,
        forgets_changes: bool = False,
    ) -> None:
        """Join the group, or create it with these settings and full buckets.

        What was changed in a group whose last member is gone without removing it holds in the new one, too,
        and is `carried`, unless `forgets_changes`.

        Its segment must be root's, this process's user's, or one of `trusted_users`': who owns it can set its
        limits, and end its members by cutting it off. Waits up to LOCK_WAIT_S for others to join or leave.
        Raises RateGroupError, and BucketSettingsError for settings that make no bucket.
        """
        if fault := group_name_fault(name):
            raise RateGroupError(f"rate group {name!r}: {fault}")
        self.name = name
        self.is_creator = False
        self.carried: dict[str, BucketSettings | None] = {}
        self._forgets_changes = forgets_changes
        self._segment_name = f"ringblk-rate-{name}"
        self._trusted_users = {0, os.geteuid(), *trusted_users}
        self._mapping: mmap.mmap | None = None
        self._fd = -1
        try:
            while not self._try_join(settings, now_ns):
                pass
        except BaseException:
            self.leave()
            raise

    @property
    def limit(self) -> RateLimit:
        """The buckets, as this process sees them."""
        return RateLimit(self.buffer, HEADER_BYTES)

    @property
    def buffer(self) -> mmap.mmap:
        """The segment; the RateLimitState begins HEADER_BYTES in."""
        assert self._mapping is not None, "this group has been left"
        return self._mapping

    def fileno(self) -> int:
        """The descriptor of the segment."""
        return self._fd

    @property
    def settings(self) -> RateLimitSettings:
        """What holds now."""
        return self._read_settings(self.buffer[SETTINGS_OFFSET_BYTES:]).current

    def configure(self, settings: RateLimitSettings, now_ns: int) -> None:
        """Set new limits for all members, with full buckets. Members may do this at any time.

        Raises RateGroupBusy at once when another process joins, leaves or configures.
        """
        self.configure_some({name: getattr(settings, name) for name in settings.__struct_fields__}, now_ns)

    def configure_some(self, settings: Mapping[str, BucketSettings | None], now_ns: int) -> None:
        """Like configure(), for the buckets named in a mapping; the others go on as they are."""
        with self.changing() as set_buckets:
            set_buckets(settings, now_ns)

    @contextmanager
    def changing(self) -> Iterator[Callable[[Mapping[str, BucketSettings | None], int], None]]:
        """Keep others from joining and configuring; it gives configure_some(). Raises RateGroupBusy."""
        with self._one_at_a_time(0.0):
            yield self._set_buckets

    def _set_buckets(self, buckets: Mapping[str, BucketSettings | None], now_ns: int) -> None:
        if not buckets:
            return
        self.limit.configure_some(buckets, now_ns)
        former = self._read_settings(self.buffer[SETTINGS_OFFSET_BYTES:])
        self._write_settings(GroupSettings(former.given, msgspec.structs.replace(former.current, **buckets)))

    def _read_settings(self, data: bytes) -> GroupSettings:
        """What stands in the segment; no limits where nothing that can be read does."""
        found = newest(data)
        with suppress(msgspec.DecodeError):
            if found is not None:
                return msgspec.json.decode(found[1], type=GroupSettings)
        return GroupSettings(RateLimitSettings(), RateLimitSettings())

    def _write_settings(self, settings: GroupSettings) -> None:
        offset_bytes, slot = next_slot(self.buffer[SETTINGS_OFFSET_BYTES:], msgspec.json.encode(settings))
        start = SETTINGS_OFFSET_BYTES + offset_bytes
        self.buffer[start : start + len(slot)] = slot

    def leave(self, *, goes_on: bool = False) -> None:
        """Leave the group; the last member out removes it. No other process of this engine may be drawing.

        A group that another process keeps locked is left all the same, and its name stays. So it does where
        this member's drive `goes_on` with another engine, as if this one had been killed.
        """
        if self._fd < 0:
            return
        with suppress(RateGroupBusy), self._one_at_a_time(LOCK_WAIT_S):
            if not goes_on and self._is_named() and self._lock_membership(fcntl.LOCK_EX):
                unlink_named(self._segment_name)
        # A mapping has a descriptor of its own (mmap), and lives as long as the last RateLimit on it.
        fcntl.flock(self._fd, fcntl.LOCK_UN)
        self._release()

    def _try_join(self, settings: RateLimitSettings, now_ns: int) -> bool:
        """Return False when the segment lost its name before it was locked: then there is another."""
        self._release()
        try:
            self._fd = self._open()
        except (FileNotFoundError, FileExistsError):  # its name went or came since it was looked for
            return False
        except (OSError, SegmentError) as error:
            raise RateGroupError(f"rate group {self.name!r}: {error}") from error
        with self._one_at_a_time(LOCK_WAIT_S):
            is_alone = self._lock_membership(fcntl.LOCK_EX)
            if is_alone:
                self._create(settings, now_ns)
            # Who clears away orphaned segments may hold the exclusive lock for a moment, and take the name.
            if not self._lock_membership(fcntl.LOCK_SH) or not self._is_named():
                return False
            if not self._has_header():
                raise RateGroupError(f"rate group {self.name!r} is in use by engines of another version")
            try:
                self._mapping = mmap.mmap(self._fd, SEGMENT_BYTES)
            except (OSError, ValueError) as error:  # cut off since its size was looked at
                raise RateGroupError(f"rate group {self.name!r}: {error}") from error
            self.is_creator = is_alone
        return True

    def _open(self) -> int:
        """Open what has the group's name, or make it; whatever others put there, nothing is waited for."""
        try:
            fd = open_named(self._segment_name)
        except FileNotFoundError:
            return create_named(self._segment_name)
        try:
            check_segment_file(fd, self._segment_name, self._trusted_users)
        except SegmentError:
            os.close(fd)
            raise
        return fd

    def _create(self, settings: RateLimitSettings, now_ns: int) -> None:
        """Begin anew: nobody else is in. The header comes last, so that one that stands can be believed.

        Whoever is killed here leaves what an earlier member left, or all of the new settings.
        """
        given = settings
        try:
            if self._has_header():
                if not self._forgets_changes:
                    former = self._read_settings(os.pread(self._fd, RECORD_BYTES, SETTINGS_OFFSET_BYTES))
                    self.carried = changed_buckets(former.given, former.current)
                    settings = msgspec.structs.replace(given, **self.carried)
            else:
                os.ftruncate(self._fd, 0)
                reserve(self._fd, 0, SEGMENT_BYTES)  # no room: an error now, not a SIGBUS later
        except OSError as error:
            raise RateGroupError(f"rate group {self.name!r}: {error}") from error
        self._mapping = mmap.mmap(self._fd, SEGMENT_BYTES)
        self._write_settings(GroupSettings(given, settings))
        crash_point("rate group: settings carried over")
        self._mapping[HEADER_BYTES:SETTINGS_OFFSET_BYTES] = bytes(SETTINGS_OFFSET_BYTES - HEADER_BYTES)
        self.limit.configure(settings, now_ns)
        self._mapping[:HEADER_BYTES] = _header()

    def _has_header(self) -> bool:
        return (
            os.fstat(self._fd).st_size == SEGMENT_BYTES and os.pread(self._fd, HEADER_BYTES, 0) == _header()
        )

    def _lock_membership(self, operation: int) -> bool:
        try:
            fcntl.flock(self._fd, operation | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _is_named(self) -> bool:
        """Whether the group's name still means the segment that is open here."""
        try:
            named_fd = open_segment(self._segment_name)
        except SegmentError:  # gone, or of another user
            return False
        try:
            return os.path.sameopenfile(named_fd, self._fd)
        finally:
            os.close(named_fd)

    @contextmanager
    def _one_at_a_time(self, wait_s: float) -> Iterator[None]:
        """Keep others from joining, leaving and configuring. Raises RateGroupBusy."""
        given_up_s = time.monotonic() + wait_s
        while not self._lock_record():
            if time.monotonic() >= given_up_s:
                raise RateGroupBusy(f"rate group {self.name!r}: another process keeps it locked")
            time.sleep(_LOOK_S)
        try:
            yield
        finally:
            if self._fd >= 0:
                set_lock(self._fd, NONE)

    def _lock_record(self) -> bool:
        try:
            set_lock(self._fd, WRITE)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            return False
        return True

    def _release(self) -> None:
        """Close what is open; a member that is killed is one until the last copy of the fd is closed."""
        self._mapping = None  # unmapped when the last RateLimit on it is gone
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def limit_of_fd(fd: int) -> RateLimit:
    """The buckets of the group that this engine has joined, by its segment's descriptor."""
    return RateLimit(mmap.mmap(fd, SEGMENT_BYTES), HEADER_BYTES)


def _header() -> bytes:
    sizes = VERSION.to_bytes(4, "little") + STATE_BYTES.to_bytes(4, "little")
    return (MAGIC + sizes).ljust(HEADER_BYTES, b"\0")
