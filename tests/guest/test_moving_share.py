"""A guest moves between two QEMUs, and so between two engines that share one folder, while it works there.

Fault model: the guest moves at any moment of its work, and moves back. A file that it has open all the time
is written on, folders and files that it has made are there, and what it caches is true.
"""

import contextlib
import os
from pathlib import Path

import pytest

from scripts.guest_machine import Machine, Share
from tests.rigs.guest import Guest
from tests.rigs.many_drives import ManyDrives
from tests.rigs.moving_guest import Move

pytestmark = [
    pytest.mark.guest,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="files are opened by their handles: root only"),
]
NAME = "share"
BEGIN_TO_WORK = """
cat >/run/worker <<'END'
cd /mnt
exec 5>>log
n=0
while [ ! -e /run/enough ]; do
  n=$((n + 1))
  echo $n >&5 || echo append $n
  mkdir folder && echo $n >folder/new && mv folder/new kept && [ "$(cat kept)" = $n ] || echo kept $n
  rmdir folder || echo rmdir $n
done
echo $n
END
sh /run/worker </dev/null >/run/done 2>&1 &
"""
END_WORK = "touch /run/enough; until [ -s /run/done ]; do sleep 0.1; done; cat /run/done"
SUM_KNOWN = "md5sum </mnt/known"


def test_a_guest_moves_with_its_share_and_moves_back(tmp_path: Path) -> None:
    folder = tmp_path / "share"
    folder.mkdir()
    (folder / "known").write_bytes(os.urandom(1 << 20))
    drives = {NAME: {"kind": "fs", "shared_dir": str(folder), "tag": NAME}}
    with ManyDrives(drives) as first, ManyDrives(drives) as second, contextlib.ExitStack() as cleanup:
        count = 0

        def new_guest(engine: ManyDrives, *, is_incoming: bool) -> Guest:
            nonlocal count
            count += 1
            (log_folder := tmp_path / f"guest-{count}").mkdir()
            machine = Machine(shares=[Share(engine.socket_path(NAME), NAME)], memory_mib=192)
            return cleanup.enter_context(Guest(machine, log_folder, is_incoming=is_incoming))

        guest = new_guest(first, is_incoming=False)
        guest.run(f"mount -t virtiofs {NAME} /mnt")
        known = guest.run(SUM_KNOWN)
        guest.run(BEGIN_TO_WORK)
        for engine in (second, first):
            target = new_guest(engine, is_incoming=True)
            move = Move(guest, target, tmp_path)
            move.begin()
            move.finish()
            guest.end()
            guest = target
            assert guest.run(f"echo 2 >/proc/sys/vm/drop_caches; {SUM_KNOWN}") == known
        rounds = int(guest.run(END_WORK))
        guest.run("umount /mnt")
        assert rounds > 3
        assert (folder / "log").read_text().split() == [str(number + 1) for number in range(rounds)]
        assert (folder / "kept").read_text().split() == [str(rounds)]
