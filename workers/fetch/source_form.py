"""A fetched base on the disk: a folder with a layer that is filled from a source (docs/fetched-bases.md)."""

import os
import re
from typing import TypeVar

import msgspec

from ringblk.workers.layers.form import SOURCE_BASE, BaseIdentity, LayerDamaged, Superblock

LIMIT = "limit"
"""Beside the folders of all sources: how many bytes they may have together."""
SOURCE, PIN, SOCKET, LOCK = "source", "pin", "socket", "lock"
"""Its files besides those of a layer: where it comes from, what the source was, and two of the fetcher's."""
VERSION = 1
MAX_SOCKET_PATH = 107
"""Bytes (unix(7))."""
MIN_PIECE_BYTES, MAX_PIECE_BYTES = 1 << 16, 1 << 20
_FOLDER_MODE = 0o700
_FILE_MODE = 0o600
_NAME_BYTES = 12
_SECTOR_BYTES = 512
_URI = re.compile(r"(nbds?(\+unix)?|https?):")
_ANY_URI = re.compile(r"[a-z][a-z0-9+.-]*://|rbd:")
_Content = TypeVar("_Content", "SourceSettings", "SourcePin")


class BadSource(ValueError):  # noqa: N818
    """It can be no fetched base. The message says why."""


class SourceSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a folder says of its source."""

    version: int
    uri: str
    manifest: str | None = None
    """A file with the digests of its pieces."""


class SourcePin(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the source was when it was looked at first, and has to be for ever."""

    version: int
    source_bytes: int
    """All that it has."""
    piece_bytes: int
    """What is fetched at once: a power of two, of whole blocks."""
    marks: dict[str, str]
    """What the server says that tells this content from another: `etag`, `last-modified`."""
    manifest_digest: str = ""
    """SHA-256 of the manifest; empty: there is none."""

    @property
    def size_bytes(self) -> int:
        """What drives see of it: whole sectors."""
        return self.source_bytes - self.source_bytes % _SECTOR_BYTES


def is_uri(text: str) -> bool:
    """Whether this names a source, and no path."""
    return _ANY_URI.match(text) is not None


def told_uri(uri: str) -> str:
    """A URI as logs and the control API have it: without name and password."""
    return re.sub(r"//[^/@]*@", "//", uri)


def check_uri(uri: str) -> None:
    """Raise `BadSource` for what no fetcher can read."""
    if _URI.match(uri) is None:
        raise BadSource(f"{uri}: can't be fetched: it is none of nbd:, nbds:, nbd+unix:, http:, https:")
    if not uri.isprintable():
        raise BadSource("it is not of printable characters")


def source_folder(cache: str, uri: str) -> str:
    """The folder of a source below that of a host's caches."""
    import hashlib  # loads OpenSSL: for who has a source

    return os.path.abspath(
        os.path.join(cache, hashlib.blake2b(uri.encode(), digest_size=_NAME_BYTES).hexdigest())
    )


def make_source(cache: str, uri: str, manifest: str | None) -> str:
    """The folder of a source, made where it isn't there. Raises `BadSource` and `OSError`."""
    check_uri(uri)
    folder = source_folder(cache, uri)
    if len(os.fsencode(folder)) + len(SOCKET) + 1 > MAX_SOCKET_PATH:
        raise BadSource(f"{cache}: its path is too long for a socket in it: at most {_longest_cache()} bytes")
    settings = SourceSettings(version=VERSION, uri=uri, manifest=manifest and os.path.abspath(manifest))
    os.makedirs(folder, _FOLDER_MODE, exist_ok=True)
    if not is_source(folder):
        write_whole(folder, SOURCE, msgspec.json.encode(settings))
    elif read_settings(folder) != settings:
        raise BadSource(f"{folder}: keeps this source with another manifest: remove that folder, or name it")
    return folder


def _longest_cache() -> int:
    return MAX_SOCKET_PATH - 2 * _NAME_BYTES - len(SOCKET) - 2


def is_source(folder: str) -> bool:
    """Whether a folder is a fetched base."""
    return os.path.exists(os.path.join(folder, SOURCE))


def read_settings(folder: str) -> SourceSettings:
    """Raises `LayerDamaged` and `OSError`."""
    return _read(folder, SOURCE, SourceSettings)


def set_limit(cache: str, limit_bytes: int) -> None:
    """What all sources of a cache may have together, from now on. Raises `LayerDamaged`, `OSError`."""
    if read_limit(cache) != limit_bytes:
        write_whole(cache, LIMIT, b"%d\n" % limit_bytes)


def read_limit(cache: str) -> int | None:
    """In bytes; None: there is no limit. Raises `LayerDamaged`, `OSError`."""
    try:
        with open(os.path.join(cache, LIMIT), "rb") as file:
            return int(file.read())
    except FileNotFoundError:
        return None
    except ValueError:
        raise LayerDamaged(f"its file {LIMIT!r} is no number of bytes") from None


def name_of(folder: str) -> str:
    """Its source, to be told to people; where that can't be read, the folder."""
    try:
        return told_uri(read_settings(folder).uri)
    except (LayerDamaged, OSError):
        return folder


def read_pin(folder: str) -> SourcePin | None:
    """What the source was; None: nobody has looked so far. Raises `LayerDamaged` and `OSError`."""
    try:
        return _read(folder, PIN, SourcePin)
    except FileNotFoundError:
        return None


def _read(folder: str, name: str, form: type[_Content]) -> _Content:
    with open(os.path.join(folder, name), "rb") as file:
        text = file.read()
    try:
        found = msgspec.json.decode(text, type=form)
    except msgspec.MsgspecError as error:
        raise LayerDamaged(f"its file {name!r} is damaged: {error}") from None
    if found.version != VERSION:
        raise LayerDamaged(f"has version {found.version}, and this program knows {VERSION}")
    return found


def write_whole(folder: str, name: str, content: bytes) -> None:
    """Have a file with this content: all of it, or as it was before. Raises `OSError`."""
    path, new = os.path.join(folder, name), os.path.join(folder, f"{name}.{os.getpid()}.new")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, _FILE_MODE)
    with open(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(fd)
    os.rename(new, path)
    folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder_fd)
    finally:
        os.close(folder_fd)


def identity_of(folder: str, layer_id: bytes, pin: SourcePin) -> BaseIdentity:
    """What an overlay keeps of a fetched base."""
    return BaseIdentity(
        kind=SOURCE_BASE,
        path=os.path.realpath(os.fsencode(folder)),
        size_bytes=pin.size_bytes,
        layer_id=layer_id,
    )


def layer_id_of(uri: str, pin: SourcePin) -> bytes:
    """What tells this content from other: the manifest's digest, else where it is and all that is known."""
    import hashlib

    known = [pin.manifest_digest] if pin.manifest_digest else [uri, *sorted(pin.marks.items())]
    text = msgspec.json.encode([pin.source_bytes, *known])
    return hashlib.blake2b(text, digest_size=16).digest()


def superblock_of(uri: str, pin: SourcePin) -> Superblock:
    """Of the layer that is filled."""
    path = uri.encode()
    base = BaseIdentity(kind=SOURCE_BASE, path=path[:1024], size_bytes=pin.size_bytes)
    return Superblock(layer_id=layer_id_of(uri, pin), size_bytes=pin.size_bytes, base=base)
