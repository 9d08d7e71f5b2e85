"""What a control plane hears when it looks for the drives of one before it.

Fault model: anybody may make a file that looks like a segment of a control plane that has died, and listen at
the name that goes with it, in order to have what it hands over be believed.
"""

import os

import pytest

from ringblk.engine.supervisor.kept_parts import connect_to_orphan, listen_for_adoption
from tests.rigs.engine_rig import NOBODY


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_another_user_is_not_called() -> None:
    segment = os.memfd_create("segment")
    os.seteuid(NOBODY)
    try:
        listening = listen_for_adoption(segment)
    finally:
        os.seteuid(0)
    assert connect_to_orphan(segment) is None
    called, _ = listening.accept()
    assert called.recv(100) == b""
    for end in (called, listening):
        end.close()
    os.close(segment)


def test_nobody_is_called_where_nobody_listens() -> None:
    segment = os.memfd_create("segment")
    listen_for_adoption(segment).close()
    assert connect_to_orphan(segment) is None
    os.close(segment)
