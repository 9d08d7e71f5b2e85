"""What a URI of an RBD image names."""

import pytest

from ringblk.workers.rbd.image_name import BadImageName, RbdName, parse_name


def test_what_it_names() -> None:
    assert parse_name("rbd:pool/disk", None, None) == RbdName(
        uri_text="rbd:pool/disk", pool="pool", image="disk", snapshot=None, conf=None, user="admin"
    )
    name = parse_name("rbd:pool/disk@yesterday", "/etc/other.conf", "vm")
    assert (name.image, name.snapshot, name.conf, name.user) == ("disk", "yesterday", "/etc/other.conf", "vm")


@pytest.mark.parametrize("text", ["rbd:disk", "rbd:/disk", "rbd:pool/", "rbd:pool/disk@", "rbd:pool/@s"])
def test_what_names_nothing(text: str) -> None:
    with pytest.raises(BadImageName, match="names an image"):
        parse_name(text, None, None)


@pytest.mark.parametrize("text", ["rbd:pool/name/disk", "rbd:pool/disk@a@b"])
def test_what_has_a_part_too_many(text: str) -> None:
    with pytest.raises(BadImageName, match="too many"):
        parse_name(text, None, None)
