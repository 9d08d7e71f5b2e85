"""A manifest: the SHA-256 of each piece of a source, made where the source is known to be right."""

import hashlib
import os

import msgspec

from ringblk.workers.fetch.source_form import MAX_PIECE_BYTES, MIN_PIECE_BYTES
from ringblk.workers.layers.form import LayerDamaged

VERSION = 1
PIECE_BYTES = 1 << 19
"""Where nobody says otherwise: what AWS Lambda has found best for images that many start from."""
_DIGEST_TEXT = 64


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the pieces of a source are to be."""

    version: int
    size_bytes: int
    piece_bytes: int
    sha256: list[str]

    def is_right(self, piece: int, content: bytes) -> bool:
        """Whether a piece is what it is to be."""
        return hashlib.sha256(content).hexdigest() == self.sha256[piece]


def read_manifest(path: str) -> tuple[Manifest, str]:
    """A manifest, and its own digest. Raises `LayerDamaged` and `OSError`."""
    with open(path, "rb") as file:
        text = file.read()
    try:
        found = msgspec.json.decode(text, type=Manifest)
    except msgspec.MsgspecError as error:
        raise LayerDamaged(f"{path}: is no manifest: {error}") from None
    if found.version != VERSION:
        raise LayerDamaged(f"{path}: has version {found.version}, and this program knows {VERSION}")
    if not MIN_PIECE_BYTES <= found.piece_bytes <= MAX_PIECE_BYTES or found.piece_bytes & (
        found.piece_bytes - 1
    ):
        raise LayerDamaged(
            f"{path}: has pieces of {found.piece_bytes} bytes, which are no power of two"
            f" from {MIN_PIECE_BYTES} to {MAX_PIECE_BYTES}"
        )
    if len(found.sha256) != -(-found.size_bytes // found.piece_bytes) or not all(
        len(digest) == _DIGEST_TEXT for digest in found.sha256
    ):
        raise LayerDamaged(f"{path}: has {len(found.sha256)} digests, which are not those of all pieces")
    return found, hashlib.sha256(text).hexdigest()


def make_manifest(path: str | os.PathLike[str], piece_bytes: int) -> bytes:
    """The manifest of a raw image. Raises `OSError`."""
    with open(path, "rb") as file:
        size_bytes = os.lseek(file.fileno(), 0, os.SEEK_END)
        file.seek(0)
        digests = []
        while content := file.read(piece_bytes):
            digests.append(hashlib.sha256(content).hexdigest())
    manifest = Manifest(version=VERSION, size_bytes=size_bytes, piece_bytes=piece_bytes, sha256=digests)
    return msgspec.json.encode(manifest) + b"\n"
