"""What an engine loads: no OpenSSL for what is its own, asyncio as it is anywhere for what is not."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.rigs.engine_rig import MEMORY, Engine

OPENSSL = "libcrypto"
USERS_CLASS = ("--backend=ram_disk:RamDisk", "--backend-arg=size_bytes=1048576")


def libraries(pid: int) -> str:
    return Path(f"/proc/{pid}/maps").read_text()


def test_an_image_needs_neither_openssl_nor_other_backends(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(1 << 20))
    with Engine(f"--blk-file={image}") as engine:
        loaded = libraries(engine.process.pid)
    assert "backends/file." in loaded
    for name in (OPENSSL, "backends/memory.", "/frontend/"):
        assert name not in loaded


def test_what_takes_long_to_import_is_not_imported_for_an_image(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(1 << 20))
    code = (
        "import sys; from ringblk.engine.program import cli, engine, serve\n"
        "from ringblk.workers.backends.opening import open_image_backend\n"
        f"open_image_backend({str(image)!r}, read_only=False, direct='auto').close()\n"
        "print(*{'pathlib', 'ctypes', 'urllib.parse', 'dataclasses', 'shutil'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_a_zygote_imports_little_for_drives_that_may_come() -> None:
    """It and all its children would have what the supervisor alone opens storage with."""
    code = (
        "import sys; from ringblk.engine.program import start\n"
        "from ringblk.workers.backends.opening import import_backend\n"
        "import_backend(None); import_backend('memory')\n"
        "from ringblk.workers.backends import opening, memory\n"
        "print(*{'pathlib', 'urllib.parse', 'ipaddress', 'asyncio'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_a_built_in_backend_needs_no_openssl() -> None:
    with Engine(*MEMORY) as engine:
        assert OPENSSL not in libraries(engine.process.pid)


def test_users_class_has_asyncio_with_tls() -> None:
    with Engine(*USERS_CLASS) as engine:
        assert OPENSSL in libraries(engine.process.pid)


def test_the_control_api_needs_no_openssl(tmp_path: Path) -> None:
    with Engine(*MEMORY, f"--control={tmp_path / 'control'}") as engine:
        assert OPENSSL not in libraries(engine.process.pid)


@pytest.mark.parametrize("earlier", ["", "import asyncio", "import ssl"])
def test_ssl_can_be_imported_afterwards(earlier: str) -> None:
    program = f"""{earlier}
from ringblk.engine.base.asyncio_import import import_asyncio_without_tls
import_asyncio_without_tls()
import asyncio, asyncio.sslproto, ssl
print(asyncio.sslproto.ssl is not None, ssl.OPENSSL_VERSION != "")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(earlier != ""), "True"]
