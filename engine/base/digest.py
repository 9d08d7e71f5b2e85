"""Short digests, to tell names and paths of one user apart."""

import zlib


def short_digest(data: bytes) -> str:
    """Two checksums in hexadecimal digits; hashlib would load OpenSSL."""
    return f"{zlib.crc32(data):08x}{zlib.adler32(data):08x}"
