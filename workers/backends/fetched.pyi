from ringblk.workers.backends.file import FileBackend
from ringblk.workers.backends.open_storage import OpenFetched, OpenFile

COUNTS_BYTES: int
FETCH_CALLS: str

class FetchedBase(FileBackend):
    """The data of a layer that is filled as it is read."""

    @staticmethod
    def of(file: OpenFile, fd: int, fetched: OpenFetched, map_fd: int, counts_fd: int) -> FetchedBase: ...
    def wait_for_ever(self) -> None: ...
    @property
    def read_count(self) -> int: ...
    @property
    def miss_count(self) -> int: ...
