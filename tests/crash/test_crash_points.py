"""The list of crash points is checked against the code."""

from collections import Counter

import pytest

from tests.crash.crash_build import ROOT
from tests.crash.crash_points import NO_STEPS, PROTOCOL_FILES, point_names, steps_without_point


def test_each_point_has_a_name_of_its_own() -> None:
    """But those of NBD's transmission, which has two forms: in the clear and over TLS."""
    names = Counter(point_names())
    two_forms = {*point_names("workers/nbd")}
    assert [name for name, count in names.items() if count > 1 + (name in two_forms)] == []


@pytest.mark.parametrize("name", PROTOCOL_FILES)
def test_each_step_of_a_protocol_has_a_point(name: str) -> None:
    assert steps_without_point((ROOT / name).read_text()) == []


def test_a_new_step_without_a_point_is_found() -> None:
    text = (ROOT / "engine" / "dispatcher" / "handover.pyx").read_text()
    new_step = "        store_release_32(&self.state.workers[0].done_head, 7)\n" + "        pass\n" * 3
    place = text.index("        cdef uint32_t index\n")
    assert len(steps_without_point(text[:place] + new_step + text[place:])) == 1


def test_each_exception_is_needed() -> None:
    text = "".join((ROOT / name).read_text() for name in PROTOCOL_FILES)
    assert [part for part in NO_STEPS if part not in text] == []
