"""A small Linux guest for QEMU's software emulation: its kernel, its initramfs and QEMU's command line.

The kernel is Debian's cloud kernel as it comes (`scripts/setup-guest` unpacks it under `.cache/guest`);
the initramfs holds busybox, mke2fs, the virtio modules and one init script. That script either runs a shell
on the console, which is what `scripts/guest` shows, or carries out the command lines that a test sends over
the second serial line.

Only the standard library is used, so that this runs before the project is built.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import lzma
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NoReturn

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "guest"
QEMU = "qemu-system-x86_64"
WINDOW_QEMU = CACHE / "window" / "qemu"
"""A QEMU that has a device with a DAX window (11.1), where `scripts/setup-guest-window` could get one."""
MODULES = ("virtio_pci", "virtio_blk", "ext4", "virtiofs")

MemoryBackend = Literal["memfd", "shm", "file"]

INIT = """\
#!/bin/busybox sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/ TERM=linux
/bin/busybox mkdir -p /dev /proc /sys /run /tmp /mnt /etc /bin /sbin
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
ln -s /proc/mounts /etc/mtab
while read -r module; do insmod "/modules/$module"; done </modules/order

# The mode is the last word; the kernel puts others before it that it does not know itself.
for mode; do :; done
if [ "$mode" = shell ]; then
  echo "The disk is /dev/vda. To leave: poweroff -f, or control-a x."
  setsid cttyhack sh
  poweroff -f
fi

# One base64 line in, "STATUS SIZE" and SIZE bytes of output back.
exec 3<>/dev/ttyS1
stty -F /dev/ttyS1 raw -echo
echo ready >&3
while IFS= read -r line <&3; do
  echo "$line" | base64 -d >/run/command
  sh /run/command >/run/output 2>&1 </dev/null 3>&-
  echo "$? $(wc -c </run/output)" >&3
  cat /run/output >&3
done
"""


class GuestUnavailableError(Exception):
    """Something that a guest needs is missing here: run `scripts/setup-guest`, or do without a guest."""


@dataclasses.dataclass(frozen=True)
class GuestImage:
    """What QEMU boots: a kernel and an initramfs."""

    kernel: Path
    initramfs: Path


@dataclasses.dataclass(frozen=True)
class Drive:
    """A vhost-user-blk disk: the backend's socket and what the front end asks of it.

    With `reconnect`, QEMU connects again, once a second, when the backend goes away.
    """

    socket_path: Path
    num_queues: int = 1
    queue_size: int = 128
    reconnect: bool = False


@dataclasses.dataclass(frozen=True)
class Share:
    """A vhost-user-fs share; `num_queues` are its request queues.

    With `has_window` its device has a DAX window and its tag is the backend's: that takes `WINDOW_QEMU`.
    """

    socket_path: Path
    tag: str = "share"
    num_queues: int = 1
    has_window: bool = False


@dataclasses.dataclass(frozen=True)
class Machine:
    """The guest's hardware. With `split_memory` half of the memory is a region of its own above 4 GiB."""

    drives: Sequence[Drive] = ()
    shares: Sequence[Share] = ()
    memory_mib: int = 256
    cpus: int = 1
    memory_backend: MemoryBackend = "memfd"
    split_memory: bool = False
    kernel_arguments: str = ""


def missing_parts() -> list[str]:
    """What a guest needs and this machine lacks, in words; empty when a guest can boot."""
    if platform.machine() != "x86_64":
        return [f"an x86_64 host (this is {platform.machine()})"]
    missing = [program for program in (QEMU, "mke2fs", "e2fsck") if not find_program(program)]
    if not busybox():
        missing.append("busybox, statically linked")
    if not kernel_trees():
        missing.append(f"a Debian cloud kernel in {CACHE}")
    return missing


def find_program(name: str) -> str | None:
    """The path of a program, `/sbin` included, which is not in every user's PATH."""
    return shutil.which(name, path=os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin")


def busybox() -> Path | None:
    """The statically linked busybox, if there is one."""
    path = find_program("busybox")
    if path is None or shared_libraries(Path(path)):
        return None
    return Path(path)


def kernel_trees() -> list[Path]:
    """The unpacked kernel packages, the newest last."""
    trees = [path.parent.parent for path in CACHE.glob("*/boot/vmlinuz-*")]
    return sorted(trees, key=lambda tree: [int(number) for number in re.findall(r"\d+", tree.name)])


def shared_libraries(program: Path) -> list[Path]:
    """The shared libraries that a program is loaded with, its loader included; none for a static program."""
    listing = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    return [Path(path) for path in re.findall(r"(?:=> |^\s)(/\S+)", listing, re.MULTILINE)]


def newc(entries: Iterable[tuple[str, int, bytes]]) -> bytes:
    """A cpio archive in the "newc" format, as the kernel's initramfs wants it, of (name, mode, content)."""
    archive = bytearray()
    for inode, (name, mode, content) in enumerate([*entries, ("TRAILER!!!", 0, b"")], start=1):
        fields = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        archive += b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        archive += bytes(-len(archive) % 4)
        archive += content
        archive += bytes(-len(archive) % 4)
    return bytes(archive)


def module_files(tree: Path, names: Iterable[str]) -> list[Path]:
    """The files of kernel modules and their dependencies in loading order; built-in ones have none."""
    # Packages since Debian 13 have it below usr.
    root = next(path.parent for path in tree.glob("**/lib/modules/*/modules.builtin"))
    files = {path.name.split(".")[0].replace("-", "_"): path for path in root.rglob("*.ko*")}
    builtin = {Path(line).stem.replace("-", "_") for line in (root / "modules.builtin").read_text().split()}
    ordered: list[Path] = []

    def add(name: str) -> None:
        if name in builtin and name not in files:
            return
        if name not in files:
            raise GuestUnavailableError(f"{root.name} has no module {name}")
        if files[name] in ordered:
            return
        depends = re.search(rb"\0depends=([^\0]*)\0", module_content(files[name]))
        for dependency in depends[1].decode().split(",") if depends else []:
            if dependency:
                add(dependency.replace("-", "_"))
        ordered.append(files[name])

    for name in names:
        add(name)
    return ordered


def module_content(path: Path) -> bytes:
    """A kernel module's ELF file, unpacked."""
    content = path.read_bytes()
    return lzma.decompress(content) if path.suffix == ".xz" else content


def initramfs_entries(tree: Path, programs: Iterable[str]) -> Iterator[tuple[str, int, bytes]]:
    """The files of the initramfs as (name, mode, content); directories come before what is in them."""
    static_busybox = busybox()
    assert static_busybox is not None
    files: dict[str, bytes] = {"init": INIT.encode(), "bin/busybox": static_busybox.read_bytes()}
    order = []
    for path in module_files(tree, MODULES):
        name = path.name.split(".")[0] + ".ko"
        files[f"modules/{name}"] = module_content(path)
        order.append(name + "\n")
    files["modules/order"] = "".join(order).encode()
    for program in programs:
        found = find_program(program)
        if found is None:
            raise GuestUnavailableError(f"no {program} on this machine")
        files[f"usr/sbin/{program}"] = Path(found).read_bytes()
        for library in shared_libraries(Path(found)):
            files[str(library).lstrip("/")] = library.read_bytes()
    # By its path: busybox's shell prefers the mke2fs of busybox, which makes no ext4.
    files["usr/sbin/mkfs.ext4"] = b'#!/bin/sh\nexec /usr/sbin/mke2fs -t ext4 "$@"\n'
    directories = {str(parent) for name in files for parent in Path(name).parents} - {"."}
    for directory in sorted(directories):
        yield directory, 0o040755, b""
    for name, content in files.items():
        yield name, 0o100755, content


def guest_image(programs: Sequence[str] = ()) -> GuestImage:
    """The newest kernel here and an initramfs for it, built when it is missing or older than its parts.

    `programs` are put beside busybox and mke2fs, with their libraries. Raises GuestUnavailableError.
    """
    missing = missing_parts()
    if missing:
        raise GuestUnavailableError("a guest needs " + ", ".join(missing))
    tree = kernel_trees()[-1]
    kernel = next((tree / "boot").glob("vmlinuz-*"))
    wanted = sorted({"mke2fs", *programs})
    initramfs = CACHE / f"initramfs-{tree.name}-{'-'.join(wanted)}.cpio"
    parts = [kernel, Path(__file__), busybox(), *(find_program(program) for program in wanted)]
    newest = max(os.stat(part).st_ctime for part in parts if part is not None)
    if not initramfs.exists() or initramfs.stat().st_mtime < newest:
        unfinished = initramfs.with_suffix(f".{os.getpid()}")
        unfinished.write_bytes(newc(initramfs_entries(tree, wanted)))
        unfinished.rename(initramfs)
    return GuestImage(kernel, initramfs)


@functools.cache
def qemu_version() -> tuple[int, int]:
    """QEMU's version, such as (10, 0)."""
    output = subprocess.run([QEMU, "-version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"version (\d+)\.(\d+)", output)
    assert found is not None, output
    return int(found[1]), int(found[2])


def memory_object(machine: Machine) -> str:
    """QEMU's option for memory shared with the backends; before QEMU 9.1 `memfd` stands in for `shm`."""
    size = f"id=memory,size={machine.memory_mib}M,share=on"
    if machine.memory_backend == "file":
        return f"memory-backend-file,mem-path=/dev/shm,{size}"
    if machine.memory_backend == "shm" and qemu_version() >= (9, 1):
        return f"memory-backend-shm,{size}"
    return f"memory-backend-memfd,{size}"


def drive_options(index: int, drive: Drive) -> list[str]:
    """QEMU's options for one vhost-user-blk disk."""
    chardev = f"socket,id=drive{index},path={drive.socket_path}"
    if drive.reconnect:
        chardev += ",reconnect-ms=1000" if qemu_version() >= (9, 2) else ",reconnect=1"
    device = (
        f"vhost-user-blk-pci,chardev=drive{index},num-queues={drive.num_queues},queue-size={drive.queue_size}"
    )
    return ["-chardev", chardev, "-device", device]


def share_options(index: int, share: Share) -> list[str]:
    """QEMU's options for one vhost-user-fs share."""
    device = f"vhost-user-fs-pci,tag={share.tag},num-request-queues={share.num_queues},queue-size=128"
    if share.has_window:
        # The generic device: its config space (virtio 1.2, 5.11.4) is the backend's.
        queues = f"num_vqs={share.num_queues + 1},vq_size=128"
        device = f"vhost-user-test-device-pci,virtio-id=26,{queues},config_size=40"
    return [
        *("-chardev", f"socket,id=share{index},path={share.socket_path}"),
        *("-device", f"{device},chardev=share{index}"),
    ]


def qemu_command(
    machine: Machine, image: GuestImage, serial_options: Sequence[str], init_mode: str
) -> list[str]:
    """The command line that boots `machine` with the init script's `init_mode`, `shell` or `agent`.

    A boot takes two to three seconds: a small firmware, no devices but those named, a quiet serial line.
    """
    options = "q35,memory-backend=memory,hpet=off,vmport=off,i8042=off"
    if machine.split_memory:
        options += f",max-ram-below-4g={machine.memory_mib // 2}M"
    has_window = any(share.has_window for share in machine.shares)
    qemu = str(WINDOW_QEMU) if has_window else QEMU
    command = [qemu, "-nodefaults", "-no-user-config", "-display", "none", "-bios", "qboot.rom"]
    # Without the processor's random numbers mke2fs waits four seconds for the kernel's first ones.
    processor = "qemu64,+rdrand,+rdseed"
    command += ["-machine", options, "-accel", "tcg", "-cpu", processor, "-smp", str(machine.cpus)]
    command += ["-m", f"{machine.memory_mib}M", "-object", memory_object(machine)]
    command += ["-kernel", str(image.kernel), "-initrd", str(image.initramfs)]
    # Under emulation on a busy host the timer check fails now and then.
    arguments = "console=ttyS0 quiet panic=-1 nokaslr no_timer_check tsc=reliable cryptomgr.notests"
    command += ["-append", f"{arguments} {machine.kernel_arguments} -- {init_mode}"]
    for index, drive in enumerate(machine.drives):
        command += drive_options(index, drive)
    for index, share in enumerate(machine.shares):
        command += share_options(index, share)
    return [*command, *serial_options]


def main() -> NoReturn:
    """Boot a guest on one backend and give the terminal to its shell: this process becomes QEMU."""
    parser = argparse.ArgumentParser(
        prog="guest", description="Boot a Linux guest whose disk is served on SOCKET."
    )
    parser.add_argument("socket", type=Path, help="the vhost-user-blk backend's socket")
    parser.add_argument("--memory-mib", type=int, default=512)
    parser.add_argument("--cpus", type=int, default=1)
    parser.add_argument("--num-queues", type=int, default=1)
    arguments = parser.parse_args()
    machine = Machine([Drive(arguments.socket, arguments.num_queues)], arguments.memory_mib, arguments.cpus)
    serial = ["-chardev", "stdio,id=console,mux=on,signal=off", "-serial", "chardev:console"]
    try:
        command = qemu_command(machine, guest_image(), serial, "shell")
    except GuestUnavailableError as unavailable:
        sys.exit(f"guest: {unavailable}")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
