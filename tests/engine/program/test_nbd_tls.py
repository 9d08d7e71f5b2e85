"""Drives whose bytes an NBD server keeps, over encrypted connections.

The fault model: that of test_nbd_drives.py. What a dead process was owed is encrypted, and the key has died
with it. The server may be another than it says, offer no TLS, or want a certificate.
"""

import os
import random
import shutil
import ssl
import threading
from pathlib import Path

import pytest

from ringblk import Frontend
from ringblk.engine.frontend.request import RequestFailed
from ringblk.engine.load.verified_load import LoadSettings, VerifiedLoad
from ringblk.workers.block.protocol import RequestStatus
from tests.rigs.engine_process import EngineProcess
from tests.rigs.engine_rig import DEADLINE_S, Engine, run_program
from tests.rigs.many_drives import ManyDrives
from tests.rigs.nbd_drive import SERVING, WAYS, finish, kill_client, run_load, submit_write
from tests.rigs.nbd_server import NbdServer, free_port, needs_nbd
from tests.rigs.scripted_nbd import READ, WRITE, NbdRequest, ScriptedNbd, simple
from tests.rigs.tls_certificates import Certificates

pytestmark = needs_nbd("openssl")
SIZE_BYTES = 4 << 20
BLOCK = 4096


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.touch()
    os.truncate(path, SIZE_BYTES)
    return path


@pytest.mark.parametrize("io_engine", WAYS)
@pytest.mark.parametrize(
    ("program", "uses_tcp"),
    [
        pytest.param("nbdkit", False, marks=needs_nbd("nbdkit")),
        pytest.param("qemu-nbd", True, marks=needs_nbd("qemu-nbd")),
    ],
)
def test_a_verified_load_with_deaths(
    tmp_path: Path, image: Path, certificates: Certificates, io_engine: str, program: str, uses_tcp: bool
) -> None:
    chosen = random.Random(3)
    command = (
        [program, "file", str(image)]
        if program == "nbdkit"
        else [program, "--shared=8", "--format=raw", str(image)]
    )
    roles = ["dispatcher"] if io_engine == "sync" else ["dispatcher", "worker-0"]
    with (
        NbdServer(tmp_path, command, free_port() if uses_tcp else None, certificates) as server,
        EngineProcess(
            tmp_path / "socket", [f"--uri={server.uri}", f"--io-engine={io_engine}", "--sandbox=auto"]
        ) as engine,
        Frontend(str(engine.socket_path), request_timeout_s=DEADLINE_S) as disk,
    ):
        assert disk.capacity_bytes == SIZE_BYTES
        load = VerifiedLoad(disk, LoadSettings(max_blocks=16))
        for place in range(6):
            run_load(load, chosen.randrange(20, 80))
            if place % 3 == 2:
                server.restart()
            else:
                engine.kill(chosen.choice(roles))
        run_load(load, 50)
        finish(load)
        disk.flush()
        assert disk.read(0, SIZE_BYTES) == image.read_bytes()
        assert "refuses" not in engine.log


def server_context(certificates: Certificates, version: ssl.TLSVersion, ciphers: str = "") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server / "server-cert.pem", certificates.server / "server-key.pem")
    context.maximum_version = version
    if ciphers:
        context.set_ciphers(ciphers)
    return context


def encrypted_uri(server: ScriptedNbd, certificates: Certificates) -> str:
    return f"{server.uri.replace('nbd', 'nbds', 1)}&tls-certificates={certificates.client}"


@pytest.mark.parametrize("io_engine", WAYS)
@pytest.mark.parametrize(
    ("version", "ciphers"),
    [
        (ssl.TLSVersion.TLSv1_3, ""),
        (ssl.TLSVersion.TLSv1_2, "ECDHE+AESGCM"),
        (ssl.TLSVersion.TLSv1_2, "ECDHE+CHACHA20"),
    ],
    ids=["TLS 1.3", "GCM of 1.2", "ChaCha of 1.2"],
)
def test_nothing_is_done_again_before_the_server_has_answered_the_dead(
    tmp_path: Path, certificates: Certificates, io_engine: str, version: ssl.TLSVersion, ciphers: str
) -> None:
    """Nobody can read the answers: a read with data, one that fails, and in the end the write's."""
    may_go, has_answered = threading.Event(), threading.Semaphore(0)

    def answer(request: NbdRequest) -> bytes | None:
        if request.connection != SERVING:
            return None
        if request.command == WRITE:
            may_go.wait(DEADLINE_S)
            return None
        may_read.wait(DEADLINE_S)
        has_answered.release()
        return simple(request.cookie, 5) if request.offset_bytes else None

    may_read = threading.Event()
    context = server_context(certificates, version, ciphers)
    with (
        ScriptedNbd(tmp_path, answer=answer, is_structured=False, tls=context) as server,
        EngineProcess(
            tmp_path / "socket",
            [f"--uri={encrypted_uri(server, certificates)}", "--format=raw", f"--io-engine={io_engine}"],
        ) as engine,
        Frontend(str(engine.socket_path), request_timeout_s=DEADLINE_S) as disk,
    ):
        tokens = [submit_write(disk, 0, b"A" * BLOCK)]
        buffers = [disk.allocate(BLOCK), disk.allocate(2 * BLOCK)]
        tokens += [disk.submit_read(place * BLOCK, buffer) for place, buffer in enumerate(buffers)]
        disk.submit()
        assert server.wait(lambda: server.count(WRITE) == 1 and server.count(READ) == 2)
        kill_client(engine, io_engine)
        may_read.set()
        assert [has_answered.acquire(timeout=DEADLINE_S) for _ in buffers] == [True, True]
        # A successor would connect: that is what it does first.
        assert not server.wait(lambda: len(server.connections) > SERVING + 1, timeout_s=0.5)
        may_go.set()
        assert [disk.wait(token).status for token in tokens] == [RequestStatus.OK] * 3
        assert server.count(WRITE) == 2, "it is done again"
        assert "were not answered" not in engine.log


@pytest.mark.parametrize("size_bytes", [512, 20 << 10, 300 << 10])
@pytest.mark.parametrize("piece_bytes", [1000, 1 << 30])
def test_answers_in_records_of_any_size(
    tmp_path: Path, certificates: Certificates, piece_bytes: int, size_bytes: int
) -> None:
    context = server_context(certificates, ssl.TLSVersion.TLSv1_3)
    with (
        ScriptedNbd(tmp_path, is_structured=False, piece_bytes=piece_bytes, tls=context) as server,
        Engine(f"--uri={encrypted_uri(server, certificates)}", "--format=raw") as engine,
        Frontend(engine.socket_path, request_timeout_s=DEADLINE_S) as disk,
    ):
        data = random.Random(size_bytes).randbytes(size_bytes)
        disk.write(BLOCK, data)
        assert server.disk[BLOCK : BLOCK + size_bytes] == data
        assert disk.read(BLOCK, size_bytes) == data


def test_an_error_of_the_server_is_one_of_the_request(tmp_path: Path, certificates: Certificates) -> None:
    def answer(request: NbdRequest) -> bytes | None:
        return simple(request.cookie, 5) if request.offset_bytes == BLOCK else None

    context = server_context(certificates, ssl.TLSVersion.TLSv1_3)
    with (
        ScriptedNbd(tmp_path, answer=answer, is_structured=False, tls=context) as server,
        Engine(f"--uri={encrypted_uri(server, certificates)}", "--format=raw") as engine,
        Frontend(engine.socket_path, request_timeout_s=DEADLINE_S) as disk,
    ):
        for _ in range(2):
            with pytest.raises(RequestFailed, match="IOERR"):
                disk.read(BLOCK, BLOCK)
            disk.write(0, b"x" * BLOCK)
            assert disk.read(0, BLOCK) == b"x" * BLOCK


@needs_nbd("nbdkit")
def test_a_drive_of_a_list_is_served_across_control_planes(
    tmp_path: Path, image: Path, certificates: Certificates
) -> None:
    """The files are needed no more once the drive is open."""
    files = tmp_path / "files"
    shutil.copytree(certificates.client, files)
    with (
        NbdServer(tmp_path, ["nbdkit", "file", str(image)], None, certificates) as server,
        ManyDrives({}) as engine,
    ):
        uri = server.uri.replace(str(certificates.client), str(files))
        assert engine.put("vm1", uri=uri, format="raw")[0] == 201
        shutil.rmtree(files)
        with engine.frontend("vm1") as disk:
            disk.write(0, b"A" * BLOCK)
            engine.kill_control_plane()
            engine.control.get("/drives")  # waits for the next one
            engine.kill_dispatcher("vm1")
            assert disk.read(0, BLOCK) == b"A" * BLOCK


def refusal(tmp_path: Path, uri: str) -> str:
    """The line with which the engine refuses to start."""
    done = run_program(f"--socket-path={tmp_path / 'socket'}", f"--uri={uri}")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    start = f"vhost-user-ringblk: --uri {uri}: "
    assert line.startswith(start)
    return str(line.removeprefix(start))


@needs_nbd("nbdkit")
def test_a_server_that_offers_no_tls_is_refused(
    tmp_path: Path, image: Path, certificates: Certificates
) -> None:
    with NbdServer(tmp_path, ["nbdkit", "file", str(image)]) as server:
        uri = f"{server.uri.replace('nbd', 'nbds', 1)}&tls-certificates={certificates.client}"
        assert refusal(tmp_path, uri) == "the server does not offer TLS"


@needs_nbd("nbdkit")
def test_who_is_not_trusted_is_refused(tmp_path: Path, image: Path, certificates: Certificates) -> None:
    """Either side."""
    others = Certificates(tmp_path, "others")
    with NbdServer(tmp_path, ["nbdkit", "file", str(image)], free_port(), certificates) as server:
        ours = str(certificates.client)
        assert "unable to get local issuer" in refusal(tmp_path, server.uri.replace(ours, str(others.client)))
        assert "Hostname mismatch" in refusal(tmp_path, f"{server.uri}&tls-hostname=other.example")
        assert "may want another certificate" in refusal(
            tmp_path, server.uri.partition("?")[0] + "?tls-verify-peer=0"
        )
        plain = server.uri.replace("nbds", "nbd").partition("?")[0]
        assert refusal(tmp_path, plain).startswith("the server takes encrypted connections alone: nbds:")
        (others.client / "client-key.pem").unlink()
        assert "client-key.pem: No such file" in refusal(
            tmp_path, server.uri.replace(ours, str(others.client))
        )
        (others.client / "ca-cert.pem").write_text("nothing\n")
        shutil.copy(certificates.client / "client-key.pem", others.client)
        assert "ca-cert.pem: has no certificate" in refusal(
            tmp_path, server.uri.replace(ours, str(others.client))
        )


def test_a_server_that_ends_tls_is_one_that_is_gone(tmp_path: Path, certificates: Certificates) -> None:
    """What it says once it comes back without is told in the log."""
    context = server_context(certificates, ssl.TLSVersion.TLSv1_3)
    server = ScriptedNbd(tmp_path, is_structured=False, tls=context)
    with (
        EngineProcess(
            tmp_path / "socket", [f"--uri={encrypted_uri(server, certificates)}", "--format=raw"]
        ) as engine,
        Frontend(str(engine.socket_path), request_timeout_s=DEADLINE_S) as disk,
    ):
        disk.write(0, b"x" * BLOCK)
        server.close()
        token = submit_write(disk, BLOCK, b"y" * BLOCK)
        engine.wait_log("no connection")
        with ScriptedNbd(tmp_path, is_structured=False):
            engine.wait_log("the server does not offer TLS")
        with ScriptedNbd(tmp_path, is_structured=False, tls=context) as other:
            assert disk.wait(token).status == RequestStatus.OK
            assert other.disk[: 2 * BLOCK] == bytes(BLOCK) + b"y" * BLOCK
