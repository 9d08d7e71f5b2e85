"""What a driver learns of its queue."""


class DeviceBroken(Exception):  # noqa: N818
    """The device wrote something to the used ring that no correct device writes.

    The queue cannot be used any more: what its requests did is unknown. Disconnect, and report a bug in
    the back end.
    """


class QueueFull(Exception):  # noqa: N818
    """The chain needs more descriptors than are free. Pop used chains, then add it again."""
