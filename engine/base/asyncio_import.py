"""Import asyncio without TLS: an engine has no use for it, and OpenSSL takes 3 MiB and 10 ms or more."""

import sys
from typing import Any


def import_asyncio_without_tls() -> None:
    """Import asyncio as it is where Python has no OpenSSL; `ssl` can be imported afterwards as ever.

    For processes that run only our own code: to others asyncio would say that there is no TLS.
    """
    if "asyncio" in sys.modules or "ssl" in sys.modules:
        return
    modules: dict[str, Any] = sys.modules  # None makes an import raise ImportError ("The module cache")
    modules["ssl"] = None
    try:
        import asyncio  # noqa: F401
    finally:
        del modules["ssl"]
