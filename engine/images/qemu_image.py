"""QEMU's programs for the formats that are QEMU's: qemu-img looks and creates, qemu-nbd reads and writes.

qemu-nbd serves one image on a socket that it inherits listening (systemd's socket activation), so there is
nothing to poll for, and it ends by itself when the connection does, however that comes about.
"""

import json
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from ringblk.engine.images.error import ImageError
from ringblk.engine.images.format import QEMU_NAMES
from ringblk.engine.images.nbd_client import NbdClient, NbdError
from ringblk.engine.images.qcow_end import qcow_end_bytes

INFO_TIMEOUT_S = 30.0
"""How long `qemu-img info` may take: it reads headers only, but opens whatever files an image names."""
# The shell makes standard input descriptor 3 and names itself, as sd_listen_fds(3) wants it.
_ACTIVATE = 'exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec "$@"'


class QemuInfo(msgspec.Struct):
    """What `qemu-img info` says of an image; `outside_files` are those beside it that it continues in."""

    virtual_size_bytes: int
    outside_files: list[str]


class QemuExtent(msgspec.Struct):
    """A stretch of an image as `qemu-img map` gives it; `zero` where it reads as zeroes.

    `offset` is where its data stand in their file, if that can be told; `depth` says which file of the chain.
    """

    start: int
    length: int
    zero: bool
    depth: int = 0
    offset: int | None = None
    present: bool = True
    """Whether any file of the chain has it; else it is where nothing was ever written."""


def require_program(name: str) -> str:
    """Return the program's path. Raises ImageError if it is not installed."""
    found = shutil.which(name)
    if found is None:
        raise ImageError(f"this format needs {name}, which is not installed (Debian: qemu-utils)")
    return found


def describe_image(path: Path, image_format: str) -> QemuInfo:
    """Ask `qemu-img info`, also while another program has the image open. Raises ImageError."""
    arguments = ("info", "-U", "--output=json", "-f", _qemu_name(image_format), os.path.abspath(path))
    answer = json.loads(_run_qemu_img(*arguments, timeout_s=INFO_TIMEOUT_S))
    outside = [answer["full-backing-filename"]] if "full-backing-filename" in answer else []
    outside += _outside_files(answer.get("format-specific", {}).get("data", {}), os.path.abspath(path))
    return QemuInfo(answer["virtual-size"], outside)


def _qemu_name(image_format: str) -> str:
    return QEMU_NAMES.get(image_format, image_format)


def _outside_files(specific: dict[str, Any], own_path: str) -> list[str]:
    named = [specific["data-file"]] if "data-file" in specific else []
    extents = [extent.get("filename", own_path) for extent in specific.get("extents", [])]
    return named + [name for name in extents if name != own_path]


def map_extents(path: Path, image_format: str) -> list[QemuExtent]:
    """Ask `qemu-img map` what is data and what reads as zeroes, in order, all of it.

    Raises ImageError, also where the image, or one that it stands on, goes on beyond the end of its file:
    QEMU would read zeroes there.
    """
    name = os.path.abspath(path)
    answer = _run_qemu_img("map", "--output=json", "-f", _qemu_name(image_format), name)
    extents = msgspec.json.decode(answer, type=list[QemuExtent])
    for depth, image in enumerate(_chain(name, image_format)):
        file_name, file_format = image["filename"], image["format"]
        if not os.path.isfile(file_name):
            continue  # a device, or somewhere else
        file_bytes = os.stat(file_name).st_size
        end_bytes = _tables_end_bytes(file_name) if file_format in ("qcow", "qcow2") else 0
        if not _outside_files(image.get("format-specific", {}).get("data", {}), file_name):
            data = (item for item in extents if item.depth == depth and not item.zero)
            end_bytes = max(end_bytes, *(item.offset + item.length for item in data if item.offset), 0)
        if end_bytes > file_bytes and file_format != "raw":
            raise ImageError(f"{file_name} is cut off: it has {file_bytes} bytes of {end_bytes} at least")
    return extents


def _chain(name: str, image_format: str) -> list[dict[str, Any]]:
    """Describe the image and those below it, in order."""
    arguments = ("info", "-U", "--backing-chain", "--output=json", "-f", _qemu_name(image_format), name)
    answer: list[dict[str, Any]] = json.loads(_run_qemu_img(*arguments, timeout_s=INFO_TIMEOUT_S))
    return answer


class ChainImage(msgspec.Struct, frozen=True):
    """An image of a chain."""

    path: str
    image_format: str
    size_bytes: int


def describe_chain(path: Path, image_format: str) -> list[ChainImage]:
    """An image and those that it stands on, in order. Raises `ImageError`."""
    return [
        ChainImage(each["filename"], each["format"], each["virtual-size"])
        for each in _chain(os.path.abspath(path), image_format)
    ]


def _tables_end_bytes(name: str) -> int:
    with open(name, "rb", buffering=0) as file:
        try:
            return qcow_end_bytes(file.fileno())
        except ValueError as error:
            raise ImageError(f"{name}: {error}") from None


def create_qemu_image(path: Path, image_format: str, size_bytes: int) -> None:
    """Create an empty image with `qemu-img create`. Raises ImageError."""
    options = ["-o", "force_size=on"] if image_format == "vhd" else []  # else as a disk of 1990 would have it
    arguments = ("create", "-q", "-f", _qemu_name(image_format), *options)
    _run_qemu_img(*arguments, os.path.abspath(path), str(size_bytes))


def create_on(path: Path, size_bytes: int, backing_name: str | None) -> None:
    """Create an empty qcow2 image, on another in the same folder if one is named. Raises `ImageError`.

    Its subclusters are smaller than a block: so a block that is written brings none beside it along.
    """
    on = [] if backing_name is None else ["-b", backing_name, "-F", "qcow2"]
    arguments = ("create", "-q", "-f", "qcow2", "-o", "extended_l2=on", *on)
    _run_qemu_img(*arguments, os.path.abspath(path), str(size_bytes))


def _run_qemu_img(*arguments: str, timeout_s: float | None = None) -> bytes:
    command = [require_program("qemu-img"), *arguments]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=timeout_s
        )
    except subprocess.TimeoutExpired as error:
        raise ImageError(
            f"qemu-img gave no answer in {timeout_s} s: look at the files that the image names"
        ) from error
    if done.returncode != 0:
        raise ImageError(_last_line(done.stderr) or f"qemu-img ended with status {done.returncode}")
    return done.stdout


def _last_line(output: bytes) -> str:
    lines = output.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


class QemuNbd:
    """A qemu-nbd of our own that serves one image to `client`, past the page cache if `direct`."""

    def __init__(self, path: Path, image_format: str, *, read_only: bool, direct: bool) -> None:
        """Start it and connect. Raises ImageError with what it printed, a lock it ran into for instance."""
        command = [
            require_program("qemu-nbd"),
            f"--format={_qemu_name(image_format)}",
            f"--cache={'none' if direct else 'writeback'}",
            *(["--read-only"] if read_only else ["--discard=unmap", "--detect-zeroes=off"]),
            os.path.abspath(path),
        ]
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  (closed in close)
        with (
            tempfile.TemporaryDirectory(prefix="ringblk-nbd-") as directory,
            socket.socket(socket.AF_UNIX) as listener,
        ):
            address = f"{directory}/socket"
            listener.bind(address)
            listener.listen(1)
            # Its own session: an interrupt from the terminal is ours to handle.
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _ACTIVATE, "sh", *command],
                stdin=listener.fileno(),
                stdout=self._output,
                stderr=self._output,
                start_new_session=True,
            )
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(address)
        try:
            self.client = NbdClient(connection)
        except (NbdError, OSError) as error:
            connection.close()
            self._process.wait()
            raise self.explain(error) from error

    def explain(self, error: Exception) -> ImageError:
        """Turn an error of the connection into what qemu-nbd said of it."""
        self._output.seek(0)
        said = _last_line(self._output.read())
        return ImageError(said.removeprefix("qemu-nbd: ") or f"qemu-nbd: {error}")

    def close(self) -> None:
        """End the connection and wait for qemu-nbd to end, which closes the image."""
        self.client.close()
        self._process.wait()
        self._output.close()
