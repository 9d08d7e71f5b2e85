"""Which image of a Ceph cluster a URI names, and what was found of it."""

import msgspec

PREFIX = "rbd:"


class BadImageName(ValueError):  # noqa: N818
    """It names no image. The message says what is wrong with it."""


class RbdName(msgspec.Struct, frozen=True, kw_only=True):
    """An image, and how to get to its cluster."""

    uri_text: str
    pool: str
    image: str
    snapshot: str | None
    """None: the image itself."""
    conf: str | None
    """The cluster's configuration file; None: where Ceph's own programs look for it."""
    user: str
    """Without `client.`"""


class RbdFound(msgspec.Struct, frozen=True, kw_only=True):
    """What the cluster has said of an image."""

    size_bytes: int
    object_bytes: int
    """Of each of the objects that it is cut into."""
    has_exclusive_lock: bool


def parse_name(text: str, conf: str | None, user: str | None) -> RbdName:
    """What `rbd:POOL/IMAGE[@SNAPSHOT]` names. Raises `BadImageName`."""
    pool, slash, rest = text.removeprefix(PREFIX).partition("/")
    image, at, snapshot = rest.partition("@")
    if not (pool and slash and image) or (at and not snapshot):
        raise BadImageName("rbd:POOL/IMAGE[@SNAPSHOT] names an image")
    if "/" in image or "@" in snapshot:
        raise BadImageName("a name has a / or an @ too many")
    return RbdName(
        uri_text=text,
        pool=pool,
        image=image,
        snapshot=snapshot if at else None,
        conf=conf,
        user=user or "admin",
    )
