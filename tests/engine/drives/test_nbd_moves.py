"""A guest moves with a drive that an NBD server keeps: each engine has connections of its own.

Nothing is locked: the queues drain before the engine that the guest leaves answers, so nothing of it comes
later. What the other finds is the server's to say: that its connections share a cache (CAN_MULTI_CONN).
"""

from pathlib import Path

import pytest

from tests.rigs.dirty_log import logged
from tests.rigs.engine_rig import Engine, raw_frontend
from tests.rigs.inline_device import IN, OK, OUT
from tests.rigs.scripted_nbd import ALL_FLAGS, CAN_MULTI, ScriptedNbd

DOUBT = "the server does not say that its connections share one cache"


@pytest.mark.parametrize("flags", [ALL_FLAGS | CAN_MULTI, ALL_FLAGS], ids=["one cache", "who knows"])
def test_a_guest_moves_between_two_engines_on_one_export(tmp_path: Path, flags: int) -> None:
    with (
        ScriptedNbd(tmp_path, flags=flags) as server,
        Engine(f"--uri={server.uri}") as first,
        Engine(f"--uri={server.uri}") as second,
        raw_frontend(first) as guest,
    ):
        here, there = first, second
        for turn in range(4):
            assert guest.queues[0].request(OUT, turn, data=bytes([turn]) * 512)[0] == OK
            with logged(guest):
                guest.connection.get_vring_base(0)
            assert (DOUBT in here.log()) == (flags == ALL_FLAGS)
            guest.connection.close()
            here, there = there, here
            guest.connect(here)
            guest.set_up()
            for sector in range(turn + 1):
                found = guest.queues[0].request(IN, sector, read_bytes=512)
                assert found == (OK, bytes([sector]) * 512)
