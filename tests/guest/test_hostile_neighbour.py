"""Two real guests on two drives of one engine. One attacks, the other keeps its data and notices nothing.

Fault model: the root user of a guest takes its disk's driver away and programs the virtio device by hand:
rings in any memory, of its kernel's code for example, that it then offers, and a reset in the middle.
"""

from pathlib import Path

import pytest

from scripts.guest_machine import Drive, Machine
from tests.rigs.guest import Guest
from tests.rigs.guest_image import make_image, run_on_host
from tests.rigs.image_file import MIB
from tests.rigs.many_drives import ManyDrives

pytestmark = pytest.mark.guest

TAKE_THE_DEVICE = """
device=$(basename $(readlink -f /sys/block/vda/device/..))
echo $device >/sys/bus/pci/drivers/virtio-pci/unbind
echo 1 >/sys/bus/pci/devices/$device/enable
printf '\\007\\000' | dd of=/sys/bus/pci/devices/$device/config bs=1 seek=4 conv=notrunc
set -- $(sed -n 5p /sys/bus/pci/devices/$device/resource)
echo $1 >/tmp/registers
"""
ATTACK = """
at=$(cat /tmp/registers)
put() { devmem $((at + $1)) $2 $3 || exit 1; }
for ring in 0x1000000 0x1000008 0x2000000 0x7fffff0 0x0 0x1234560; do
  put 0x14 8 0
  put 0x14 8 3
  put 0x08 32 1
  put 0x0c 32 1
  put 0x14 8 11
  put 0x16 16 0
  put 0x20 32 $ring
  put 0x24 32 0
  put 0x28 32 $((ring + 0x1000))
  put 0x2c 32 0
  put 0x30 32 0x6000000
  put 0x34 32 0
  put 0x1c 16 1
  put 0x14 8 15
  for kick in 1 2 3; do put 0x3000 16 0; done
done
"""
"""The common configuration and the notifications of virtio 1.2, 4.1.4, where QEMU has them: BAR 4."""


def test_a_guest_that_attacks_harms_itself_alone(tmp_path: Path) -> None:
    with ManyDrives({}) as engine:
        for name in ("good", "bad"):
            make_image(engine.image(name), 32 * MIB)
            (tmp_path / name).mkdir()
            assert engine.put(name, workers=1)[0] == 201
        good_machine, bad_machine = (Machine([Drive(engine.socket_path(name))]) for name in ("good", "bad"))
        with Guest(good_machine, tmp_path / "good") as good, Guest(bad_machine, tmp_path / "bad") as bad:
            good.run("mkfs.ext4 -q /dev/vda && mount /dev/vda /mnt")
            good.run("dd if=/dev/urandom of=/mnt/data bs=64k count=32 && sha256sum /mnt/data >/tmp/sums")
            processes = engine.processes("good")
            bad.run(TAKE_THE_DEVICE)
            for _ in range(2):
                bad.run(ATTACK)
                good.run("sync && echo 3 >/proc/sys/vm/drop_caches && sha256sum -c -s /tmp/sums")
            assert "bad: queue 0 is broken until it is reset" in engine.log()
            assert engine.processes("good") == processes
            state = engine.control.get("/drives/good")["state"]
            assert (state["state"], state["is_connected"]) == ("running", True)
            good.run("umount /mnt")
            assert "I/O error" not in good.run("dmesg")
            good.power_off()
        assert "good: queue" not in engine.log()
        assert "good: the dispatcher" not in engine.log()
        run_on_host("e2fsck", "-fn", engine.image("good"))
