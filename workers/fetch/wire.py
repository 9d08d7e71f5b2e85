"""What a drive's process says to the fetcher, and what that answers; workers/fetch/wire.pxd has the same."""

import struct

REQUEST = struct.Struct("=II16sQQ")
"""Kind, flags, which content is meant, offset and length in bytes."""
REPLY = struct.Struct("=iIQ")
"""0 or a negative errno, flags, bytes that follow."""
READ, LOOK, WATCH = 1, 2, 3
"""Have a range in the cache; tell what there is (`SourceState`, in JSON); tell that whenever it changes."""
WANTS_BYTES = HAS_BYTES = 1
NO_CONTENT = bytes(16)
"""Whoever looks does not know yet which there is."""
