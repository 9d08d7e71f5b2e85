"""Which export of which NBD server a URI names.

The form of the URI: github.com/NetworkBlockDevice/nbd, doc/uri.md; `tls-certificates` is libnbd's.
"""

import os

import msgspec

DEFAULT_PORT = 10809
SCHEMES = ("nbd", "nbds", "nbd+unix", "nbds+unix")
_MAX_SOCKET_PATH = 107
"""Bytes (unix(7))."""


class BadUri(ValueError):  # noqa: N818
    """It names no export. The message says what is wrong with it."""


class TlsChoice(msgspec.Struct, frozen=True, kw_only=True):
    """How a connection is encrypted, as a URI asks for it."""

    hostname: str = ""
    """Which host the server's certificate has to be for; empty: any that its authority has signed."""
    certificates_dir: str = ""
    """Where the files are (`tls_files.py`); empty: this system's authorities, and no certificate."""
    verifies_server: bool = True
    """False: the server may be anybody."""


class NbdUri(msgspec.Struct, frozen=True, kw_only=True):
    """A server's address, and an export's name."""

    host: str = ""
    """Empty where it is a unix socket."""
    port: int = DEFAULT_PORT
    socket_path: str = ""
    export_name: bytes = b""
    """Empty: the server's default export."""
    tls: TlsChoice | None = None
    """None: the connection is not encrypted."""


def parse_uri(text: str) -> NbdUri:
    """What an `nbd:` URI names. Raises `BadUri`."""
    from urllib.parse import parse_qsl, unquote_to_bytes, urlsplit  # takes long: for a drive that has a URI

    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise BadUri(str(error)) from None
    if parts.scheme not in SCHEMES:
        raise BadUri(f"{parts.scheme}: is none of {', '.join(SCHEMES)}")
    if parts.fragment:
        raise BadUri("what follows # names nothing")
    settings = dict(parse_qsl(parts.query, keep_blank_values=True))
    socket_path = settings.pop("socket", "")
    export_name = unquote_to_bytes(parts.path.removeprefix("/"))
    tls = _take_tls(parts.scheme, parts.hostname or "", settings)
    if settings:
        raise BadUri(f"{next(iter(settings))}= is not known")
    if b"\0" in export_name:
        raise BadUri("no export has a NUL in its name")
    if parts.scheme.endswith("+unix"):
        if parts.hostname or not socket_path:
            raise BadUri(f"{parts.scheme}:///EXPORT?socket=PATH names a unix socket")
        if len(os.fsencode(socket_path)) > _MAX_SOCKET_PATH:
            raise BadUri(f"the path of a unix socket has at most {_MAX_SOCKET_PATH} bytes")
        return NbdUri(socket_path=socket_path, export_name=export_name, tls=tls)
    if socket_path:
        raise BadUri(f"socket= is for {parts.scheme}+unix:")
    if not parts.hostname:
        raise BadUri(f"{parts.scheme}://HOST[:PORT]/EXPORT names a host")
    return NbdUri(host=parts.hostname, port=port or DEFAULT_PORT, export_name=export_name, tls=tls)


def _take_tls(scheme: str, host: str, settings: dict[str, str]) -> TlsChoice | None:
    """What the `tls-` settings ask for; they are removed. None: no encryption. Raises `BadUri`."""
    if not scheme.startswith("nbds"):
        for name in settings:
            if name.startswith("tls-"):
                raise BadUri(f"{name}= is for nbds: and nbds+unix:")
        return None
    if "tls-psk-file" in settings or settings.pop("tls-type", "x509") != "x509":
        raise BadUri("of TLS only certificates can be used (tls-type=x509), no pre-shared keys")
    verifies = settings.pop("tls-verify-peer", "1")
    if verifies not in ("0", "1"):
        raise BadUri(f"tls-verify-peer={verifies} is neither 0 nor 1")
    return TlsChoice(
        hostname=settings.pop("tls-hostname", host),
        certificates_dir=settings.pop("tls-certificates", ""),
        verifies_server=verifies == "1",
    )
