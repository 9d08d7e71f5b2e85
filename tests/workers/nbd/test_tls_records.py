"""How much is said over TLS, as it is seen without a key.

The fault model: bytes come in pieces of any size. A server may pad, or choose a cipher that does.
"""

import contextlib
import random
import ssl
from pathlib import Path

import pytest

from ringblk.workers.nbd import tls_session
from ringblk.workers.nbd.tls_files import keep_files, kept_files, make_context, read_files
from ringblk.workers.nbd.tls_records import RecordCount, overhead_of
from ringblk.workers.nbd.tls_session import PaddedRecords, TlsSession
from ringblk.workers.nbd.uri import TlsChoice
from tests.rigs.nbd_server import needs_nbd
from tests.rigs.tls_certificates import Certificates

pytestmark = needs_nbd("openssl")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


class Server:
    """The other side of a session, in memory."""

    def __init__(self, certificates: Certificates, version: ssl.TLSVersion, ciphers: str) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(
            certificates.server / "server-cert.pem", certificates.server / "server-key.pem"
        )
        context.maximum_version = version
        context.set_ciphers(ciphers)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=True)


def connect(certificates: Certificates, version: ssl.TLSVersion, ciphers: str) -> tuple[TlsSession, Server]:
    choice = TlsChoice(hostname="storage.example", certificates_dir=str(certificates.client))
    server = Server(certificates, version, ciphers)
    session = TlsSession(make_context(read_files(choice)), choice.hostname)
    session.shake_hands()
    while not session.is_secure:
        server.incoming.write(session.take())
        with contextlib.suppress(ssl.SSLWantReadError):
            server.tls.do_handshake()
        session.feed(server.outgoing.read())
        while session.take_record():
            pass
    server.incoming.write(session.take())
    if version == ssl.TLSVersion.TLSv1_3:
        server.tls.do_handshake()  # tickets
    session.feed(server.outgoing.read())
    while session.take_record():
        pass
    return session, server


CASES = [
    pytest.param(ssl.TLSVersion.TLSv1_3, "ECDHE+AESGCM", id="1.3"),
    pytest.param(ssl.TLSVersion.TLSv1_2, "ECDHE+AESGCM", id="GCM of 1.2"),
    pytest.param(ssl.TLSVersion.TLSv1_2, "ECDHE+CHACHA20", id="ChaCha of 1.2"),
]


@pytest.mark.parametrize(("version", "ciphers"), CASES)
def test_data_is_counted_to_the_byte(
    certificates: Certificates, version: ssl.TLSVersion, ciphers: str
) -> None:
    chosen = random.Random(7)
    session, server = connect(certificates, version, ciphers)
    assert session.is_between_records
    count = RecordCount(session.overhead_bytes)
    said_bytes = 0
    for _ in range(30):
        size_bytes = chosen.choice([1, 16, 28, 512, 16384, 16385, 100000])
        server.tls.write(chosen.randbytes(size_bytes))
        said_bytes += size_bytes
        stream = server.outgoing.read()
        while stream:
            piece = stream[: chosen.choice([1, 4, 5, 6, 1000, 20000])]
            count.feed(piece)
            stream = stream[len(piece) :]
        assert count.data_bytes == said_bytes
        assert count.is_between


def test_a_record_that_has_not_come_whole_is_not_counted() -> None:
    count = RecordCount(17)
    count.feed(b"\x17\3\3\0\x1b")
    assert (count.data_bytes, count.is_between) == (0, False)
    count.feed(bytes(26))
    assert (count.data_bytes, count.is_between) == (0, False)
    count.feed(bytes(1))
    assert (count.data_bytes, count.is_between) == (10, True)
    count.feed(b"\x15\3\3\0\x1b" + bytes(27))
    assert count.data_bytes == 10, "an alert"


def test_a_server_that_pads_is_found_out(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    session, server = connect(certificates, ssl.TLSVersion.TLSv1_3, "ECDHE+AESGCM")
    server.tls.write(b"without")
    session.feed(server.outgoing.read())
    assert session.take_record()
    assert session.said == b"without"
    monkeypatch.setattr(
        tls_session, "overhead_of", lambda version, cipher: 16
    )  # as one byte of padding would
    server.tls.write(b"with")
    session.feed(server.outgoing.read())
    with pytest.raises(PaddedRecords):
        session.take_record()


def test_ciphers_that_pad_tell_nothing() -> None:
    assert overhead_of("TLSv1.2", "ECDHE-RSA-AES128-SHA256") == 0


def test_files_are_kept_for_processes_that_open_none(certificates: Certificates, tmp_path: Path) -> None:
    files = read_files(TlsChoice(hostname="a.example", certificates_dir=str(certificates.client)))
    kept = kept_files(keep_files(files))
    assert kept == files
    assert kept.key.startswith("-----BEGIN")
