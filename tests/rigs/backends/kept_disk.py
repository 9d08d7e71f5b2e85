"""A disk that wants a worker to be there whenever a guest is."""

from ram_disk import RamDisk  # type: ignore[import-not-found]


class KeptDisk(RamDisk):  # type: ignore[misc]
    """Says so itself."""

    keeps_worker = True
