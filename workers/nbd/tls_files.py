"""The files that TLS needs, read when a drive is opened and kept for its processes, which open none.

Their names in a folder are those of libnbd, nbdkit and QEMU.
"""

import os
import ssl

import msgspec

from ringblk.shm.platform.shared_memory import make_unnamed
from ringblk.workers.nbd.uri import TlsChoice

AUTHORITIES, CERTIFICATE, KEY = "ca-cert.pem", "client-cert.pem", "client-key.pem"
_SYSTEM_AUTHORITIES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
)
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM"
"""Of TLS 1.2: those whose records are longer than what is in them by one number (`tls_records.pyx`)."""


class BadTlsFiles(Exception):  # noqa: N818
    """A file cannot be used. The message names it and says why."""


class TlsFiles(msgspec.Struct, frozen=True, kw_only=True):
    """What a client needs for a handshake, as text in PEM form; empty: none."""

    choice: TlsChoice
    authorities: str
    certificate: str = ""
    key: str = ""


def read_files(choice: TlsChoice) -> TlsFiles:
    """Those that are asked for, or this system's. Raises `BadTlsFiles`."""
    folder = choice.certificates_dir
    if not folder:
        return TlsFiles(choice=choice, authorities=_system_authorities(choice))
    has_certificate = os.path.exists(os.path.join(folder, CERTIFICATE))
    files = TlsFiles(
        choice=choice,
        authorities=_read(folder, AUTHORITIES) if choice.verifies_server else "",
        certificate=_read(folder, CERTIFICATE) if has_certificate else "",
        key=_read(folder, KEY) if has_certificate else "",
    )
    _check(files)
    return files


def _read(folder: str, name: str) -> str:
    path = os.path.join(folder, name)
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except OSError as error:
        raise BadTlsFiles(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BadTlsFiles(f"{path}: is not in PEM form") from None


def _system_authorities(choice: TlsChoice) -> str:
    if not choice.verifies_server:
        return ""
    for path in (ssl.get_default_verify_paths().cafile, *_SYSTEM_AUTHORITIES):
        if path and os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                return "".join(character for character in file.read() if character.isascii())
    raise BadTlsFiles("this system trusts no authority: name one by tls-certificates=FOLDER")


def _check(files: TlsFiles) -> None:
    folder = files.choice.certificates_dir
    try:
        make_context(msgspec.structs.replace(files, certificate="", key=""))
    except ssl.SSLError:
        raise BadTlsFiles(f"{os.path.join(folder, AUTHORITIES)}: has no certificate in PEM form") from None
    try:
        make_context(files)
    except ssl.SSLError as error:
        raise BadTlsFiles(f"{os.path.join(folder, CERTIFICATE)} and {KEY}: {reason_of(error)}") from None


def keep_files(files: TlsFiles) -> int:
    """A descriptor of memory that has them, for other processes of the drive. Raises `OSError`."""
    fd = make_unnamed("ringblk-tls", 0)
    with open(fd, "wb", closefd=False) as file:
        file.write(msgspec.msgpack.encode(files))
    return fd


def kept_files(fd: int) -> TlsFiles:
    """What `keep_files` has put there."""
    return msgspec.msgpack.decode(os.pread(fd, os.fstat(fd).st_size, 0), type=TlsFiles)


def make_context(files: TlsFiles) -> ssl.SSLContext:
    """How handshakes are made with them. Opens memory by name: not for the sandbox. Raises `SSLError`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.check_hostname = files.choice.verifies_server and bool(files.choice.hostname)
    if not files.choice.verifies_server:
        context.verify_mode = ssl.CERT_NONE
    if files.authorities:
        context.load_verify_locations(cadata=files.authorities)
    if files.certificate:
        _load_certificate(context, files)
    return context


def reason_of(error: ssl.SSLError) -> str:
    """OpenSSL's reason, for people."""
    return (error.reason or str(error)).replace("_", " ").lower()


def _load_certificate(context: ssl.SSLContext, files: TlsFiles) -> None:
    """Python's ssl takes a key from a file alone, so it is one in memory."""
    fd = make_unnamed("ringblk-key", 0)
    try:
        os.write(fd, f"{files.certificate}\n{files.key}".encode())
        context.load_cert_chain(f"/dev/fd/{fd}", password=_refuse_password)
    finally:
        os.close(fd)


def _refuse_password() -> str:
    """A key that is encrypted cannot be used; without this OpenSSL would ask the terminal."""
    return ""
