"""The form of an overlay's `chain`: which layers it has, and what each lies on (docs/layers.md)."""

import struct
import zlib
from collections.abc import Iterator

import msgspec

from ringblk.workers.layers.form import BaseIdentity, LayerDamaged

CHAIN_VERSION = 1
CHAIN_MAGIC = b"RBCHAIN\n"
HEADER_BYTES = 256
ENTRY_BYTES = 256
MAX_NAME_BYTES = ENTRY_BYTES - 64
MAX_LAYERS = 60000
"""Of one chain file, and of one drive with all that lies below: an index names each with 16 bits."""
NO_LAYER = bytes(16)

_HEADER = struct.Struct("<8sIIIIQ16sIIQQq16s")
_ENTRY = struct.Struct("<16s16sIIqQII")
_CHECKSUM_OFFSET = 12
_SEALED, _SETTLED, _FIRST, _WITHOUT_BASE, _FLATTENING = 1, 2, 4, 8, 16

assert _ENTRY.size == ENTRY_BYTES - MAX_NAME_BYTES


class ChainLayer(msgspec.Struct, frozen=True, kw_only=True):
    """A layer of an overlay."""

    layer_id: bytes
    below: bytes = NO_LAYER
    """The layer of the same folder that it lies on; `NO_LAYER`: it lies on the base."""
    size_bytes: int
    """Of the drive while this was its top."""
    name: str = ""
    """The snapshot that it is; empty: it is none, and stands for layers above alone."""
    sealed_ns: int = 0
    """When, in nanoseconds since 1970."""
    is_sealed: bool = False
    """Nothing is written to it that would change what it reads as."""
    is_settled: bool = False
    """It is sealed, and its `map` on the disk says all: neither journal nor `live` count."""
    is_first: bool = False
    """Its files stand in the overlay's folder itself."""
    has_no_base: bool = False
    """It lies on nothing: what it has not reads as zeroes."""
    is_flattening: bool = False
    """All that it lies on is to be copied into it."""

    @property
    def folder(self) -> str:
        """Where its files are, from the overlay's folder."""
        return "." if self.is_first else f"layer-{self.layer_id.hex()}"

    def encode(self) -> bytes:
        """As it stands in the file. Raises `ValueError` for a name that is too long."""
        name = self.name.encode()
        if len(name) > MAX_NAME_BYTES:
            raise ValueError(f"a name of more than {MAX_NAME_BYTES} bytes")
        flags = _SEALED * self.is_sealed | _SETTLED * self.is_settled
        flags |= _FIRST * self.is_first | _WITHOUT_BASE * self.has_no_base
        flags |= _FLATTENING * self.is_flattening
        fields = (self.layer_id, self.below, flags, len(name), self.sealed_ns, self.size_bytes, 0, 0)
        return (_ENTRY.pack(*fields) + name).ljust(ENTRY_BYTES, b"\0")

    @staticmethod
    def decode(entry: bytes) -> "ChainLayer":
        """What an entry says. Raises `LayerDamaged`."""
        layer_id, below, flags, name_bytes, sealed_ns, size_bytes, _, _ = _ENTRY.unpack_from(entry)
        try:
            name = entry[_ENTRY.size :][:name_bytes].decode()
        except UnicodeDecodeError:
            raise LayerDamaged("its chain has a name that is no UTF-8") from None
        return ChainLayer(
            layer_id=layer_id,
            below=below,
            size_bytes=size_bytes,
            name=name,
            sealed_ns=sealed_ns,
            is_sealed=bool(flags & _SEALED),
            is_settled=bool(flags & _SETTLED),
            is_first=bool(flags & _FIRST),
            has_no_base=bool(flags & _WITHOUT_BASE),
            is_flattening=bool(flags & _FLATTENING),
        )


class Chain(msgspec.Struct, frozen=True, kw_only=True):
    """All layers of an overlay: a tree, of which the drive is the branch that ends with `top`."""

    layers: dict[bytes, ChainLayer]
    """By id."""
    top: bytes
    """The one that is written to."""
    base: BaseIdentity
    """What the lowest layers lie on."""
    generation: int = 0
    """One more with each change; 0 of an overlay without a chain file."""

    def branch(self, layer_id: bytes | None = None) -> Iterator[ChainLayer]:
        """A layer, the top where none is named, and all that it lies on, down to the base."""
        layer_id = layer_id or self.top
        while layer_id != NO_LAYER:
            yield self.layers[layer_id]
            layer_id = self.layers[layer_id].below

    def snapshot(self, name: str) -> ChainLayer | None:
        """The layer that is the snapshot of this name."""
        return next((layer for layer in self.layers.values() if name and layer.name == name), None)

    def above(self, layer_id: bytes) -> list[ChainLayer]:
        """The layers that lie directly on one."""
        return [layer for layer in self.layers.values() if layer.below == layer_id]

    def pruned(self) -> "Chain":
        """The same without what nothing needs: sealed layers that are no snapshot and lie below nothing."""
        kept = dict(self.layers)
        while unneeded := [
            layer_id
            for layer_id, layer in kept.items()
            if layer.is_sealed and not layer.name and all(above.below != layer_id for above in kept.values())
        ]:
            for layer_id in unneeded:
                del kept[layer_id]
        return msgspec.structs.replace(self, layers=kept)

    def mergeable(self) -> tuple[ChainLayer, ChainLayer] | None:
        """A layer that stands only for the one above it, and that one, if both are settled."""
        for layer in self.layers.values():
            if layer.name or not layer.is_settled:
                continue
            above = self.above(layer.layer_id)
            if len(above) == 1 and above[0].is_settled:
                return layer, above[0]
        return None

    def settled(self) -> "Chain":
        """The same once all that is sealed is on the disk."""
        unsettled = [layer for layer in self.layers.values() if layer.is_sealed and not layer.is_settled]
        settled = {layer.layer_id: msgspec.structs.replace(layer, is_settled=True) for layer in unsettled}
        return msgspec.structs.replace(self, layers=self.layers | settled) if settled else self

    def changed(self, *layers: ChainLayer, without: tuple[bytes, ...] = (), top: bytes = b"") -> "Chain":
        """The next generation of it: with these layers new or in place of what they were."""
        kept = {layer_id: layer for layer_id, layer in self.layers.items() if layer_id not in without}
        kept |= {layer.layer_id: layer for layer in layers}
        return msgspec.structs.replace(self, layers=kept, top=top or self.top, generation=self.generation + 1)

    def encode(self) -> bytes:
        """The file."""
        base = self.base
        counts = (len(self.layers), len(base.path))
        fields = (base.kind, 0, base.size_bytes, base.inode, base.modified_ns, base.layer_id)
        head = _HEADER.pack(CHAIN_MAGIC, CHAIN_VERSION, 0, *counts, self.generation, self.top, *fields)
        entries = b"".join(layer.encode() for layer in self.layers.values())
        return _with_checksum(head.ljust(HEADER_BYTES, b"\0") + entries + base.path)

    @staticmethod
    def decode(content: bytes) -> "Chain":
        """What a file says. Raises `LayerDamaged`."""
        if len(content) < HEADER_BYTES or not content.startswith(CHAIN_MAGIC):
            raise LayerDamaged("its chain is none")
        _, version, _, layer_count, path_bytes, generation, top, *base = _HEADER.unpack_from(content)
        if version != CHAIN_VERSION:
            raise LayerDamaged(f"its chain has version {version}, and this program knows {CHAIN_VERSION}")
        entries_end = HEADER_BYTES + layer_count * ENTRY_BYTES
        if len(content) != entries_end + path_bytes or _with_checksum(content) != content:
            raise LayerDamaged("its chain is damaged: the checksum is wrong")
        places = range(HEADER_BYTES, entries_end, ENTRY_BYTES)
        layers = [ChainLayer.decode(content[place : place + ENTRY_BYTES]) for place in places]
        kind, _, size_bytes, inode, modified_ns, layer_id = base
        chain = Chain(
            layers={layer.layer_id: layer for layer in layers},
            top=top,
            base=BaseIdentity(
                kind=kind,
                path=content[entries_end:],
                size_bytes=size_bytes,
                inode=inode,
                modified_ns=modified_ns,
                layer_id=layer_id,
            ),
            generation=generation,
        )
        chain.check()
        return chain

    def check(self) -> None:
        """Raise `LayerDamaged` for a chain in which a layer is missing, or lies on itself."""
        if self.top not in self.layers:
            raise LayerDamaged("its chain lacks its top layer")
        sound = {NO_LAYER}
        for layer_id in self.layers:
            seen = set()
            while layer_id not in sound:
                if layer_id not in self.layers or layer_id in seen:
                    raise LayerDamaged(f"its chain lacks what a layer lies on: {layer_id.hex()}")
                seen.add(layer_id)
                layer_id = self.layers[layer_id].below
            sound |= seen


def _with_checksum(content: bytes) -> bytes:
    bare = content[:_CHECKSUM_OFFSET] + bytes(4) + content[_CHECKSUM_OFFSET + 4 :]
    return bare[:_CHECKSUM_OFFSET] + zlib.crc32(bare).to_bytes(4, "little") + bare[_CHECKSUM_OFFSET + 4 :]
