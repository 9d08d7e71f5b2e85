"""A real Linux guest on a disk that the engine serves: file systems, reboots, read-only, queues, discard."""

import hashlib
import random
from pathlib import Path

import pytest

from scripts.guest_machine import Drive, Machine, MemoryBackend
from tests.rigs.control_client import ControlClient
from tests.rigs.guest import Guest
from tests.rigs.guest_backend import serve
from tests.rigs.guest_image import make_image, run_on_host
from tests.rigs.image_file import MIB

pytestmark = pytest.mark.guest

WRITE_FROM_EVERY_PROCESSOR = """
for i in 0 1 2 3; do
  taskset -c $i dd if=/tmp/data of=/dev/vda bs=16k skip=$((i * 64)) seek=$((i * 64)) count=64 oflag=direct &
  jobs="$jobs $!"
done
for job in $jobs; do wait $job || exit 1; done
"""


def allocated_bytes(path: Path) -> int:
    return path.stat().st_blocks * 512


@pytest.mark.parametrize("memory_backend", ["shm", "file"])
def test_a_file_system_survives_a_reboot(tmp_path: Path, memory_backend: MemoryBackend) -> None:
    image = make_image(tmp_path / "disk.img")
    with serve(image, tmp_path) as socket_path:
        machine = Machine([Drive(socket_path)], memory_backend=memory_backend, split_memory=True)
        with Guest(machine, tmp_path) as guest:
            guest.run("mkfs.ext4 -q /dev/vda && mount /dev/vda /mnt && mkdir /mnt/many")
            guest.run("dd if=/dev/urandom of=/mnt/large bs=64k count=64")
            guest.run("for i in $(seq 200); do echo $i $i $i >/mnt/many/$i; done")
            sums = guest.run("cd /mnt && sha256sum large many/* | tee sums && sync")
            guest.reboot(sync=False)
            guest.run("mount /dev/vda /mnt")
            assert guest.run("cat /mnt/sums") == sums
            guest.run("cd /mnt && sha256sum -c -s sums")
            guest.run("umount /mnt")
            guest.power_off()
    run_on_host("e2fsck", "-fn", image)
    run_on_host("debugfs", "-R", f"dump /large {tmp_path / 'large'}", image)
    assert hashlib.sha256((tmp_path / "large").read_bytes()).hexdigest() == sums.split()[0]


@pytest.mark.parametrize(
    ("options", "logical_bytes", "physical_bytes"),
    [((), 512, 4096), (("--logical-block-size=4096", "--physical-block-size=16384"), 4096, 16384)],
)
def test_block_sizes_come_through(
    tmp_path: Path, options: tuple[str, ...], logical_bytes: int, physical_bytes: int
) -> None:
    image = make_image(tmp_path / "disk.img", 4 * MIB)
    assert image.stat().st_blksize == 4096
    with (
        serve(image, tmp_path, options=options) as socket_path,
        Guest(Machine([Drive(socket_path)]), tmp_path) as guest,
    ):
        names = ["logical_block_size", "physical_block_size", "minimum_io_size", "optimal_io_size"]
        told = guest.run(f"cd /sys/block/vda/queue && cat {' '.join(names)} discard_granularity")
        assert [int(line) for line in told.split()] == [
            *(logical_bytes, physical_bytes, physical_bytes, 0, 4096)
        ]
        guest.power_off()


def test_a_mounted_disk_grows_and_shrinks(tmp_path: Path) -> None:
    image = make_image(tmp_path / "disk.img", 64 * MIB)
    control = ControlClient(tmp_path / "control.sock")
    with (
        serve(image, tmp_path, options=(f"--control={control.socket_path}",)) as socket_path,
        Guest(Machine([Drive(socket_path)]), tmp_path) as guest,
    ):
        guest.run("mkfs.ext4 -q /dev/vda 32768 && mount /dev/vda /mnt")
        guest.run("dd if=/dev/urandom of=/mnt/data bs=64k count=64 && sha256sum /mnt/data >/mnt/sums && sync")
        for size_bytes in (128 * MIB, 32 * MIB, 48 * MIB):
            control.change("/drive", size_bytes=size_bytes)
            guest.run(f"until [ $(cat /sys/block/vda/size) = {size_bytes // 512} ]; do :; done")
            assert image.stat().st_size == size_bytes
            guest.run("dd if=/mnt/data of=/mnt/copy bs=64k && sync && sha256sum -c -s /mnt/sums")
            last = size_bytes // 4096 - 1
            if size_bytes > 32 * MIB:  # beyond the file system
                guest.run(
                    f"dd if=/dev/urandom of=/dev/vda bs=4k count=1 seek={last} conv=notrunc oflag=direct"
                )
        guest.run("umount /mnt")
        guest.power_off()
    assert any(image.read_bytes()[-4096:])
    run_on_host("e2fsck", "-fn", image)


def test_a_read_only_disk_is_read_and_never_written(tmp_path: Path) -> None:
    content = random.Random(1).randbytes(4 * MIB)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "data").write_bytes(content)
    image = make_image(tmp_path / "disk.img", 32 * MIB)
    run_on_host("mke2fs", "-q", "-t", "ext4", "-d", tmp_path / "files", image)
    before = image.read_bytes()
    with (
        serve(image, tmp_path, read_only=True) as socket_path,
        Guest(Machine([Drive(socket_path)]), tmp_path) as guest,
    ):
        assert guest.run("cat /sys/block/vda/ro") == "1"
        status, output = guest.status_of("dd if=/dev/zero of=/dev/vda bs=4k count=1 conv=fsync")
        assert status != 0
        assert "Read-only file system" in output or "not permitted" in output or "I/O error" in output
        guest.run("mount -o ro /dev/vda /mnt")
        assert guest.run("sha256sum </mnt/data").split()[0] == hashlib.sha256(content).hexdigest()
        status, output = guest.status_of("echo more >>/mnt/data")
        assert status != 0
        assert "Read-only file system" in output
        guest.power_off()
    assert image.read_bytes() == before


def test_every_queue_of_a_multi_queue_disk_works(tmp_path: Path) -> None:
    num_queues = 4
    image = make_image(tmp_path / "disk.img")
    with serve(image, tmp_path, num_queues=num_queues) as socket_path:
        machine = Machine([Drive(socket_path, num_queues=num_queues)], cpus=num_queues)
        with Guest(machine, tmp_path) as guest:
            assert guest.run("ls /sys/block/vda/mq").split() == [str(index) for index in range(num_queues)]
            # Each processor has a queue of its own; all write at once, each to its own MiB.
            assert guest.run("cat /sys/block/vda/mq/*/cpu_list").split() == [
                str(i) for i in range(num_queues)
            ]
            guest.run("dd if=/dev/urandom of=/tmp/data bs=1M count=4")
            guest.run(WRITE_FROM_EVERY_PROCESSOR)
            guest.run("cmp -n 4194304 /tmp/data /dev/vda")
            expected = guest.run("sha256sum </tmp/data").split()[0]
            guest.run("sync")
            guest.power_off()
    with image.open("rb") as disk:
        assert hashlib.sha256(disk.read(4 * MIB)).hexdigest() == expected


def test_discard_gives_space_back_and_write_zeroes_reads_as_zeroes(tmp_path: Path) -> None:
    image = make_image(tmp_path / "disk.img")
    with (
        serve(image, tmp_path) as socket_path,
        Guest(Machine([Drive(socket_path)]), tmp_path, programs=("blkdiscard",)) as guest,
    ):
        guest.run("mkfs.ext4 -q -E nodiscard /dev/vda && mount /dev/vda /mnt")
        guest.run("yes ringblk | dd of=/mnt/large bs=64k count=256 iflag=fullblock && sync")
        full = allocated_bytes(image)
        assert full >= 16 * MIB
        guest.run("rm /mnt/large && sync && fstrim /mnt")
        assert allocated_bytes(image) <= full - 15 * MIB
        guest.run("umount /mnt && blkdiscard /dev/vda")
        assert allocated_bytes(image) <= MIB

        guest.run("yes ringblk | dd of=/dev/vda bs=64k count=32 iflag=fullblock conv=fsync")
        guest.run("/usr/sbin/blkdiscard -z -o 65536 -l 1048576 /dev/vda")
        guest.power_off()
    with image.open("rb") as disk:
        head = disk.read(2 * MIB)
    assert head == b"ringblk\n" * 8192 + bytes(MIB) + b"ringblk\n" * (2 * MIB // 8 - 8192 - MIB // 8)
