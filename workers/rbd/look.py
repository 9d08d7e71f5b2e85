"""A process that looks at an image and ends: its argument is `read` or `write`, an `RbdName` is on stdin."""

import os
import sys

import msgspec

from ringblk.workers.rbd.client import RbdImage
from ringblk.workers.rbd.image_name import RbdName


def look() -> int:
    """Write `RbdFound` to stdout; or why not to stderr, and 1."""
    name = msgspec.json.decode(sys.stdin.buffer.read(), type=RbdName)
    is_writer = sys.argv[1] == "write" and name.snapshot is None
    try:
        image = RbdImage(name, not is_writer)
        found = image.found()
        if is_writer:
            if not found.has_exclusive_lock:
                raise OSError(0, "it has no exclusive lock: rbd feature enable IMAGE exclusive-lock")
            image.take_lock(())
    except OSError as error:
        sys.stderr.write(f"{error.strerror}\n")
        return 1
    image.close()
    sys.stdout.buffer.write(msgspec.json.encode(found))
    return 0


if __name__ == "__main__":
    status = look()
    sys.stdout.flush()
    os._exit(status)  # a client that failed half-way has threads
