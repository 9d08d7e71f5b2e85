"""What an open backend says of itself to a process that is to have it too; its descriptors come along."""

import msgspec

from ringblk.workers.backends.answers import StorageIdentity
from ringblk.workers.backends.topology import BlockTopology
from ringblk.workers.nbd.export import NbdExport
from ringblk.workers.rbd.image_name import RbdFound, RbdName


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


class OpenLayer(msgspec.Struct, frozen=True, kw_only=True):
    """A layer of an overlay."""

    number: int
    """What the drive's processes know it by, from 1 on; no two of a drive have the same."""
    layer_id: bytes
    size_bytes: int
    is_settled: bool = False
    """Its map on the disk says all (docs/layers.md)."""


class OpenIndex(msgspec.Struct, frozen=True):
    """Which layer has which block (`BlockIndex`)."""

    number: int
    size_bytes: int


class OpenFetched(msgspec.Struct, frozen=True, kw_only=True):
    """A base that is fetched as it is read (`FetchedBase`): where its fetcher is, which content is meant."""

    folder: str
    layer_id: bytes
    size_bytes: int


class OpenOverlay(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Layers and their base (`OverlayBackend`); the descriptors of `fd_names` come along, in that order."""

    folder: str
    size_bytes: int
    identity: StorageIdentity
    data: OpenFile
    """The top layer's."""
    sealed: OpenFile | None
    """What holds of the data of all other layers."""
    base: OpenFile | None
    fetched: OpenFetched | None = None
    """Where the base is one that is fetched."""
    base_lock_count: int
    """Descriptors that keep the snapshots that it lies on."""
    base_bytes: int
    """How much of the base is seen."""
    top: OpenLayer
    below: list[OpenLayer]
    """All others, the nearest first."""
    foreign_count: int
    """How many of them, the last, are of other overlays."""
    index: OpenIndex | None = None
    """Of all layers but the two nearest to the top, that one included."""
    is_taken_up: bool = True
    """Whether this engine has the overlay, so that the maps count. Nothing is read or written before."""

    @property
    def fd_names(self) -> list[str]:
        """A name for each descriptor; what has the same name is the same."""
        names = ["lock", *(f"{file} {self.top.number}" for file in ("data", "map", "live"))]
        if self.base is not None:
            names.append("base")
        if self.fetched is not None:
            names += ["base map", "base counts"]
        names += [f"base lock {number}" for number in range(self.base_lock_count)]
        if self.index is not None:
            names.append(f"index {self.index.number}")
        for near in self.below[:1]:
            names.append(f"map {near.number}")
            names += [] if near.is_settled else [f"live {near.number}"]
        return names + [f"data {layer.number}" for layer in self.below]


class OpenFolder(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A shared folder (`FolderBackend`); its descriptor and that of its memory come along."""

    path: str


class OpenTracked(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """An image whose changes are tracked (`TrackedBackend`); its descriptor and the map's come along."""

    data: OpenFile
    folder: str
    """Which tracks them."""


class OpenNbd(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """An export of an NBD server (`NbdBackend`); the descriptors of ledger and mailboxes come along."""

    export: NbdExport
    read_only: bool
    reconnect_s: float | None


class OpenRbd(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """An RBD image (`RbdBackend`); the descriptor of memory for its client's number comes along."""

    name: RbdName
    found: RbdFound
    read_only: bool


OpenStorage = OpenFolder | OpenTracked | OpenFile | OpenMemory | OpenNull | OpenOverlay | OpenNbd | OpenRbd
