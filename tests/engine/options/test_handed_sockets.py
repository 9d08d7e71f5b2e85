"""Sockets of a service manager, and the drives that serve them."""

import pytest

from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.base.service_manager import HandedSocket
from ringblk.engine.options.handed_sockets import place_sockets

ONE, OTHER = HandedSocket("vm1", 3), HandedSocket("vm2", 4)


def test_without_sockets_nothing_changes() -> None:
    values: dict[str, object] = {"socket_path": "/x"}
    assert place_sockets(values, []) is values


def test_the_only_drive_takes_the_only_socket_whatever_its_name() -> None:
    assert place_sockets({"blk_file": "a"}, [OTHER]) == {"blk_file": "a", "fd": 4}


def test_a_drive_of_a_list_takes_the_one_of_its_name() -> None:
    values: dict[str, object] = {
        "control": "/c",
        "drives": {"vm2": {}, "vm1": {}, "vm3": {"socket_path": "/x"}},
    }
    placed = place_sockets(values, [ONE, OTHER])
    assert placed == {
        "control": "/c",
        "drives": {"vm2": {"fd": 4}, "vm1": {"fd": 3}, "vm3": {"socket_path": "/x"}},
    }


@pytest.mark.parametrize(
    ("values", "sockets", "said"),
    [
        ({}, [ONE, OTHER], "hands over 2 sockets, and there is one drive"),
        ({"socket_path": "/x"}, [ONE], "named vm1.*the drive has socket_path: leave that out"),
        ({"fd": 5}, [ONE], "the drive has fd"),
        ({"drives": {"vm1": {}}}, [OTHER], "named vm2, and there is no such drive"),
        ({"drives": {"vm1": {}}}, [ONE, ONE], "named vm1.*the drive has fd"),
        ({"drives": {"vm1": {"socket_path": "/x"}}}, [ONE], "the drive has socket_path"),
    ],
)
def test_a_socket_that_nobody_would_serve(
    values: dict[str, object], sockets: list[HandedSocket], said: str
) -> None:
    with pytest.raises(ProgramError, match=said) as refused:
        place_sockets(values, sockets)
    assert refused.value.exit_status == 2
