"""What an open backend says of itself to a process that is to have it too; its descriptors come along."""

import msgspec

from ringblk.workers.backends.topology import BlockTopology


class OpenFile(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A regular file or a block device (`FileBackend`); its descriptor comes along."""

    size_bytes: int
    read_only: bool
    is_block_device: bool
    direct: bool
    direct_mode: str
    direct_refusal: str | None
    block_size_bytes: int
    offset_alignment_bytes: int
    memory_alignment_bytes: int
    topology: BlockTopology


class OpenNull(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A drive that keeps nothing (`NullBackend`)."""

    size_bytes: int


class OpenMemory(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A drive in memory (`MemoryBackend`); the descriptor of that memory comes along."""

    size_bytes: int


class OpenOverlay(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A layer and its base (`OverlayBackend`); the descriptors of data, base, map and live map come along."""

    size_bytes: int
    layer_id: bytes
    data: OpenFile
    base: OpenFile


OpenStorage = OpenFile | OpenMemory | OpenNull | OpenOverlay
