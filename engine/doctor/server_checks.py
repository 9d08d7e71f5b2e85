"""What a drive whose bytes are elsewhere would find there: asked as an engine asks."""

import contextlib
import re
import time

from ringblk.engine.base.number_text import size_text
from ringblk.engine.doctor.check import CheckResult, failure, ok, warning
from ringblk.engine.images.served_format import format_refusal
from ringblk.workers.backends.answers import ServerConnection
from ringblk.workers.backends.interface import BackendError
from ringblk.workers.backends.native import NativeBackend
from ringblk.workers.backends.opening import open_remote_backend

_URI = re.compile(r"(nbds?(\+unix)?|rbd):")


def is_uri(text: str) -> bool:
    """Whether this names storage elsewhere, and no path."""
    return _URI.match(text) is not None


def check_server(uri: str, *, read_only: bool) -> list[CheckResult]:
    """All checks of storage that this names."""
    begun_ns = time.monotonic_ns()
    try:
        backend = open_remote_backend(
            uri, read_only=read_only, reconnect_s=None, connections=1, rbd_conf=None, rbd_user=None
        )
    except BackendError as error:
        reason = str(error).removeprefix(f"{uri}: ")
        return [failure("server", reason, "look at the server, its name and port, and what it exports")]
    took_ms = (time.monotonic_ns() - begun_ns) / 1e6
    with contextlib.closing(backend):
        checks = [
            ok("server", f"has said what there is after {took_ms:.1f} ms"),
            _check_access(backend, read_only),
        ]
        connection = backend.connection()
        if connection is not None:
            checks += [
                _check_encryption(uri, connection),
                _check_abilities(backend, connection),
                _check_content(backend),
            ]
        return checks


def _check_access(backend: NativeBackend, read_only: bool) -> CheckResult:
    size = size_text(backend.size_bytes)
    if backend.read_only and not read_only:
        return warning("access", f"{size}, read-only", "the guest may only read; ask with --read-only")
    return ok("access", f"{size}, to be {'read' if read_only else 'read and written'}")


def _check_encryption(uri: str, connection: ServerConnection) -> CheckResult:
    if connection.is_encrypted:
        return ok("encryption", "TLS, by certificates")
    if "+unix:" in uri:
        return ok("encryption", "none, on this host")
    return warning(
        "encryption",
        "none: whoever has the network reads and changes the drive",
        "nbds: with a server that has TLS",
    )


def _check_abilities(backend: NativeBackend, connection: ServerConnection) -> CheckResult:
    can = ", ".join(connection.abilities) or "nothing but reads and writes"
    if "flush" not in connection.abilities and not backend.read_only:
        return warning(
            "abilities",
            f"{can}: no flush",
            "a server that flushes, or what the guest flushes may be lost with it",
        )
    return ok("abilities", can)


def _check_content(backend: NativeBackend) -> CheckResult:
    """Whether an engine takes it for raw, and what it takes to read from it."""
    begun_ns = time.monotonic_ns()
    try:
        refusal = format_refusal(backend)
    except OSError as error:
        return failure("format", f"it cannot be read: {error.strerror or error}", "look at the server's log")
    took_ms = (time.monotonic_ns() - begun_ns) / 1e6
    if refusal is not None:
        return failure("format", refusal.what, refusal.mend)
    return ok("format", f"raw; two reads, each with a connection of its own, took {took_ms:.1f} ms")
