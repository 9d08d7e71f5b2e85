"""Names of shared memory: macOS has 31 bytes for shm_open(2), so the portable form makes files of them."""

import os
from collections.abc import Iterator

import pytest

from ringblk.engine.drives.list_record import PREFIX
from ringblk.engine.drives.names import other_segment_name, own_record_prefix, segment_name
from ringblk.shm.platform import shared_memory
from ringblk.shm.platform.shared_memory import FOLDER, create_named, open_named, unlink_named
from ringblk.shm.rates.group import group_name_fault
from ringblk.shm.segments.shared_folder import shared_names

PID_MAX = (1 << 22) - 1
"""The largest process number that Linux can be set to; macOS has 99998."""
GROUP = "g" * 100
LONGEST = (
    segment_name(PID_MAX),
    other_segment_name(PID_MAX),
    f"{own_record_prefix('f' * 16, PID_MAX)}999999",
    f"{PREFIX}{'f' * 16}-{PID_MAX}-999999",
    f"ringblk-rate-{GROUP}",
)


@pytest.fixture(params=["as built", "as on macOS"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Names are made in the form that is built, and in that of macOS, which must not come to shm_open."""
    if request.param == "as on macOS":
        monkeypatch.setattr(shared_memory, "LINUX", False)
        monkeypatch.setattr(shared_memory, "posix_ipc", None)
    yield
    for name in LONGEST:
        if os.path.exists(os.path.join(FOLDER, name)):
            os.unlink(os.path.join(FOLDER, name))


def test_no_group_has_a_longer_name() -> None:
    assert group_name_fault(GROUP) is None
    assert group_name_fault(GROUP + "g") is not None


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("name", LONGEST, ids=["segment", "other segment", "record", "list", "group"])
def test_the_longest_name_is_made_found_and_removed(name: str) -> None:
    assert len(name) <= os.pathconf(FOLDER, "PC_NAME_MAX") == 255
    os.close(create_named(name))
    assert name in shared_names(name)
    os.close(open_named(name))
    unlink_named(name)
    assert shared_names(name) == []
