"""The limits of a drive, alone or in a group: what they are, what they were at the start, how they change."""

import contextlib
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping

import msgspec

from ringblk.engine.base.exit_status import ExitStatus
from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.drives.plan import DrivePlan
from ringblk.engine.drives.running_settings import limit_words
from ringblk.shm.rates.bucket_settings import BucketSettings
from ringblk.shm.rates.group import RateGroup, RateGroupError
from ringblk.shm.rates.limit import BUCKET_NAMES, RateLimit
from ringblk.shm.rates.limit_settings import RateLimitSettings, changed_buckets
from ringblk.shm.state.segment import StateSegment

_log = logging.getLogger(__name__)

Buckets = Mapping[str, BucketSettings | None]


class DriveLimits:
    """A drive's own six buckets, or those of its group, which others may change as well."""

    def __init__(
        self, limit: RateLimit, given: RateLimitSettings, carried: Buckets, *, is_set: bool = False
    ) -> None:
        """Limits of the drive's own: the `given` ones, but for what was changed in an engine before.

        `is_set`: the buckets are in use. One that is otherwise, because a change was cut short, begins
        anew.
        """
        self.limit = limit
        self.group: RateGroup | None = None
        self.given = given
        self._current = msgspec.structs.replace(given, **carried)
        names = limit.differing(self._current) if is_set else BUCKET_NAMES
        limit.configure_some({name: getattr(self._current, name) for name in names}, time.monotonic_ns())

    @classmethod
    def of_group(cls, group: RateGroup, given: RateLimitSettings) -> "DriveLimits":
        """The limits of a group that the engine has joined."""
        limits = cls.__new__(cls)
        limits.limit = group.limit
        limits.group = group
        limits.given = given
        return limits

    @property
    def current(self) -> RateLimitSettings:
        """The settings now."""
        return self._current if self.group is None else self.group.settings

    @property
    def own_changes(self) -> dict[str, BucketSettings | None]:
        """The buckets that differ from those given at the start; those of a group are the group's to keep."""
        return {} if self.group is not None else changed_buckets(self.given, self._current)

    @contextlib.contextmanager
    def changing(self, buckets: Buckets) -> Iterator[Callable[[], None]]:
        """Prepare to set these buckets, full, and no others; what it gives does so and cannot fail.

        A bucket that is so already goes on as it is. Raises `RateGroupBusy` at once.
        """
        if self.group is not None:
            with self.group.changing() as set_buckets:
                new = changed_buckets(
                    self.group.settings, msgspec.structs.replace(self.group.settings, **buckets)
                )
                yield lambda: set_buckets(new, time.monotonic_ns())
            return
        new = changed_buckets(self._current, msgspec.structs.replace(self._current, **buckets))
        yield lambda: self._set_own(new)

    def _set_own(self, buckets: Buckets) -> None:
        if buckets:
            self.limit.configure_some(buckets, time.monotonic_ns())
            self._current = msgspec.structs.replace(self._current, **buckets)

    def leave(self, *, goes_on: bool) -> None:
        """The engine ends; the drive, and so its group, goes on with the next or not."""
        if self.group is not None:
            self.group.leave(goes_on=goes_on)


def open_limits(
    plan: DrivePlan,
    state: StateSegment,
    carried: Buckets,
    trusted_users: Collection[int],
    *,
    is_adopted: bool,
) -> DriveLimits:
    """The drive's own limits, or its group's, which the engine joins. Raises `ProgramError`.

    `is_adopted`: its dispatcher draws from them already. A group's segment may be root's, this process's
    user's, or one of `trusted_users`'.
    """
    config = plan.config
    given = config.rate_limits()
    if config.rate_group is None:
        return DriveLimits(state.rate_limit, given, carried, is_set=is_adopted)
    try:
        group = RateGroup(
            config.rate_group,
            given,
            time.monotonic_ns(),
            trusted_users,
            forgets_changes=plan.options.forget_changes,
        )
    except RateGroupError as error:
        raise ProgramError(f"--rate-group: {error}", ExitStatus.FAILED) from error
    if group.carried:
        _log.info(
            "rate group %s: set while it was there before, and taken over: %s"
            " (--forget-changes begins with the options)",
            config.rate_group,
            ", ".join(limit_words(group.carried)),
        )
    if not group.is_creator and given != RateLimitSettings():
        _log.warning("rate group %s exists: its limits hold, not those given here", config.rate_group)
    return DriveLimits.of_group(group, given)
