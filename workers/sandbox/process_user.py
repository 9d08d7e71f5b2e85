"""The user that processes run as when they were started as root."""

import os

import msgspec

from ringblk.shm.platform import sandbox_calls
from ringblk.shm.platform.descriptors import own_socket_path
from ringblk.shm.platform.user_ids import become, is_all


class UnknownUser(Exception):  # noqa: N818
    """There is no such user or group, or it cannot be taken on. Name another, or start as root."""


class ProcessUser(msgspec.Struct, frozen=True):
    """A user with its group and supplementary groups."""

    uid: int
    gid: int
    groups: tuple[int, ...]

    @classmethod
    def named(cls, text: str) -> "ProcessUser":
        """`user` or `user:group`, by name or number. Raises `UnknownUser`."""
        import grp  # few engines need them
        import pwd

        user_name, colon, group_name = text.partition(":")
        if os.geteuid() != 0:
            raise UnknownUser("only root can start processes as another user")
        try:
            user = pwd.getpwuid(int(user_name)) if user_name.isdecimal() else pwd.getpwnam(user_name)
        except (KeyError, ValueError, OverflowError):  # no id is so large, no name has a NUL
            raise UnknownUser(f"there is no user {user_name!r}") from None
        gid = user.pw_gid
        if colon:
            try:
                by_number = group_name.isdecimal()
                gid = (grp.getgrgid(int(group_name)) if by_number else grp.getgrnam(group_name)).gr_gid
            except (KeyError, ValueError, OverflowError):
                raise UnknownUser(f"there is no group {group_name!r}") from None
        return cls(user.pw_uid, gid, tuple(sorted(os.getgrouplist(user.pw_name, gid))))

    def own(self, place: str | int) -> None:
        """Make this user the owner of a socket's path, or of what a descriptor is of. Raises `OSError`."""
        if isinstance(place, int):
            os.chown(place, self.uid, self.gid)
            return
        own_socket_path(place, self.uid, self.gid)

    def take_on(self) -> None:
        """Run as this user from now on, for good. Raises `OSError`.

        The kernel forgets at such a change that this process is to end with its parent; it is told again.
        """
        if self._is_taken_on():
            return
        death_signal, parent_pid = sandbox_calls.parent_death_signal(), os.getppid()
        os.setgroups(self.groups)
        become(self.uid, self.gid)
        sandbox_calls.set_parent_death_signal(death_signal)
        if death_signal and os.getppid() != parent_pid:
            os.kill(os.getpid(), death_signal)  # it ended meanwhile

    def _is_taken_on(self) -> bool:
        return is_all(self.uid, self.gid) and {*os.getgroups()} == {*self.groups}
