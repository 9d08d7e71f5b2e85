from ringblk.workers.layers.index import BlockIndex
from ringblk.workers.layers.journal import LayerJournal
from ringblk.workers.layers.map import LayerMap
from ringblk.workers.layers.sealed_map import SealedMap

class LayerStack:
    """Where each block of a drive is."""

    def __init__(self, top: LayerMap, journal: LayerJournal, base_bytes: int) -> None: ...
    def lie_on(
        self,
        number: int,
        size_bytes: int,
        settled: SealedMap | None,
        live: LayerMap | None,
        journal: LayerJournal | None,
        data_fd: int,
    ) -> None: ...
    def know(self, index: BlockIndex) -> None: ...
    def settle(self) -> None: ...
    def note_unsaved(self) -> None: ...
    def place(self, block: int) -> int: ...
