"""Storage elsewhere, as the doctor finds it.

The fault model: no server, one that does not offer what is asked for, an export that only seems to be a disk.
"""

import os
from pathlib import Path

import pytest

from tests.rigs.doctor import run_doctor
from tests.rigs.nbd_server import NbdServer, needs_nbd
from tests.rigs.scripted_nbd import ALL_FLAGS, CAN_FLUSH, ScriptedNbd
from tests.rigs.tls_certificates import Certificates

pytestmark = needs_nbd()


def test_a_server_that_has_all(tmp_path: Path) -> None:
    with ScriptedNbd(tmp_path) as server:
        status, found = run_doctor(server.uri)
    checks = found[server.uri]
    assert status == 0
    assert list(checks) == ["server", "access", "encryption", "abilities", "format"]
    assert all(check.state == "ok" for check in checks.values())
    assert checks["access"].what == "1.00 MiB, to be read and written"
    assert checks["abilities"].what == "flush, fua, trim, zero"


def test_what_a_server_lacks(tmp_path: Path) -> None:
    with ScriptedNbd(tmp_path, flags=(ALL_FLAGS & ~CAN_FLUSH) | 2) as server:
        server.disk[:8] = b"QFI\xfb\0\0\0\3"
        status, found = run_doctor(server.uri)
        checks = found[server.uri]
        assert (status, checks["format"].state, checks["access"].state) == (1, "failure", "warning")
        assert "read-only" in checks["access"].what
    with ScriptedNbd(tmp_path, flags=ALL_FLAGS & ~CAN_FLUSH) as server:
        status, found = run_doctor(server.uri)
        assert (status, found[server.uri]["abilities"].state) == (0, "warning")


@pytest.mark.parametrize("uri", ["nbd+unix:///?socket=/nowhere", "nbd://127.0.0.1/?colour=red"])
def test_no_server(uri: str) -> None:
    status, found = run_doctor(uri)
    assert status == 1
    assert [(check.name, check.state) for check in found[uri].values()] == [("server", "failure")]


@needs_nbd("nbdkit", "openssl")
def test_a_server_with_tls(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.touch()
    os.truncate(image, 1 << 20)
    with NbdServer(tmp_path, ["nbdkit", "file", str(image)], None, Certificates(tmp_path)) as server:
        status, found = run_doctor(server.uri)
        assert status == 0
        assert found[server.uri]["encryption"].what == "TLS, by certificates"
        plain = server.uri.replace("nbds", "nbd").partition("&")[0]
        status, found = run_doctor(plain)
        assert status == 1
        assert "takes encrypted connections alone" in found[plain]["server"].what
