"""Images to measure on: written end to end, so that nothing is read from holes."""

import os
from pathlib import Path

_CHUNK_BYTES = 1 << 20


def prepare_image(path: Path, size_bytes: int) -> Path:
    """Make the image unless it is there. One of another size stays as it is: it may be somebody's disk."""
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    chunk = os.urandom(_CHUNK_BYTES)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as image:
        for _ in range(size_bytes // _CHUNK_BYTES):
            image.write(chunk)
        image.flush()
        os.fsync(image.fileno())
    partial.rename(path)
    return path
