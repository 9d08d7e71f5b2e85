"""Zstandard, which the standard library has from Python 3.14 on and a package brings to earlier ones."""

import importlib
import sys
from types import ModuleType
from typing import Any, BinaryIO, cast

from ringblk.engine.images.error import ImageError

_MODULE = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"


def open_zstd_compressor(stream: BinaryIO) -> BinaryIO:
    """Return a stream that compresses into `stream`. Raises ImageError."""
    module = _require()
    # The checksum is off unless asked for, and without it damage to stored bytes goes unnoticed.
    return cast(
        BinaryIO,
        module.ZstdFile(stream, mode="wb", options={module.CompressionParameter.checksum_flag: 1}),
    )


def open_zstd_decompressor() -> Any:
    """Return a decompressor of one frame. Raises ImageError."""
    return _require().ZstdDecompressor()


def zstd_error() -> type[Exception]:
    """Return the exception of a corrupt stream; one that nobody raises where there is no zstd."""
    module = _load()
    return ImageError if module is None else cast(type[Exception], module.ZstdError)


def _require() -> ModuleType:
    module = _load()
    if module is None:
        raise ImageError("zstd needs the backports.zstd package: pip install 'ringblk[image]'")
    return module


def _load() -> ModuleType | None:
    try:
        return importlib.import_module(_MODULE)
    except ImportError:
        return None
