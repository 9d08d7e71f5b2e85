"""Whom to run as: what a user's name comes to. (tests/engine/program/test_sandbox.py: it is taken on.)"""

import grp
import os
import pwd

import pytest

from ringblk.workers.sandbox.process_user import ProcessUser, UnknownUser

NOBODY = pwd.getpwnam("nobody")


@pytest.fixture
def _as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)


@pytest.mark.usefixtures("_as_root")
def test_a_user_by_name_or_number() -> None:
    by_name = ProcessUser.named("nobody")
    assert (by_name.uid, by_name.gid) == (NOBODY.pw_uid, NOBODY.pw_gid)
    assert NOBODY.pw_gid in by_name.groups
    assert ProcessUser.named(str(NOBODY.pw_uid)) == by_name


@pytest.mark.usefixtures("_as_root")
def test_a_group_of_its_own() -> None:
    gid = grp.getgrnam("daemon").gr_gid
    for text in ("nobody:daemon", f"nobody:{gid}"):
        user = ProcessUser.named(text)
        assert (user.uid, user.gid) == (NOBODY.pw_uid, gid)
        assert gid in user.groups


@pytest.mark.usefixtures("_as_root")
@pytest.mark.parametrize(
    "text",
    [
        *("", "no-such-user", "4000000000", "99999999999", "9" * 30, "nul\0"),
        *("nobody:", "nobody:no-such-group", "nobody:99999999999", "nobody:" + "9" * 30, "nobody:nul\0"),
    ],
)
def test_nobody_of_that_name(text: str) -> None:
    with pytest.raises(UnknownUser, match="there is no"):
        ProcessUser.named(text)


def test_only_root_can_be_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UnknownUser, match="only root"):
        ProcessUser.named("nobody")
