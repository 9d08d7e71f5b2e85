"""The files of a fetched base: what they say is what was written, and what is damaged is refused in words."""

from pathlib import Path

import msgspec
import pytest

from ringblk.workers.fetch.manifest import make_manifest, read_manifest
from ringblk.workers.fetch.source_form import (
    PIN,
    SOURCE,
    BadSource,
    SourcePin,
    identity_of,
    is_source,
    is_uri,
    layer_id_of,
    make_source,
    read_pin,
    read_settings,
    told_uri,
    write_whole,
)
from ringblk.workers.layers.form import LayerDamaged

URI = "https://images.example/debian.img"
PIECE = 1 << 16


def a_pin(**changes: object) -> SourcePin:
    fields = {"version": 1, "source_bytes": 1000, "piece_bytes": PIECE, "marks": {"etag": '"1"'}}
    return msgspec.convert({**fields, **changes}, SourcePin)


def test_a_source_has_one_folder(tmp_path: Path) -> None:
    folder = make_source(str(tmp_path), URI, None)
    assert make_source(str(tmp_path), URI, None) == folder
    assert is_source(folder)
    assert read_settings(folder).uri == URI
    assert read_pin(folder) is None
    with pytest.raises(BadSource, match="another manifest"):
        make_source(str(tmp_path), URI, "base.manifest")


def test_a_pin_is_read_as_it_was_written(tmp_path: Path) -> None:
    folder = make_source(str(tmp_path), URI, None)
    write_whole(folder, PIN, msgspec.json.encode(a_pin()))
    assert read_pin(folder) == a_pin()
    assert identity_of(folder, bytes(16), a_pin()).size_bytes == 512


@pytest.mark.parametrize("content", [b"", b"{", b'{"version": 2, "uri": "x"}', b'{"version": 1}'])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    folder = make_source(str(tmp_path), URI, None)
    Path(folder, SOURCE).write_bytes(content)
    with pytest.raises(LayerDamaged):
        read_settings(folder)


def test_other_content_has_another_id() -> None:
    ids = [
        layer_id_of(URI, a_pin()),
        layer_id_of(URI + "2", a_pin()),
        layer_id_of(URI, a_pin(source_bytes=1001)),
        layer_id_of(URI, a_pin(marks={"etag": '"2"'})),
        layer_id_of(URI, a_pin(manifest_digest="1")),
    ]
    assert len(set(ids)) == len(ids)
    # With a manifest it is the content that counts, wherever it is.
    digested = a_pin(manifest_digest="1", marks={})
    assert layer_id_of(URI + "2", digested) == layer_id_of(URI, a_pin(manifest_digest="1"))


@pytest.mark.parametrize("uri", ["gopher://x/y", "rbd:pool/image", "s3://bucket/key", "nbd://x/\n"])
def test_what_is_no_source_is_refused(tmp_path: Path, uri: str) -> None:
    assert is_uri(uri)
    with pytest.raises(BadSource):
        make_source(str(tmp_path), uri, None)


def test_a_password_is_not_told() -> None:
    assert told_uri("https://me:secret@host/a@b") == "https://host/a@b"
    assert told_uri(URI) == URI


def test_paths_are_no_sources() -> None:
    assert not any(is_uri(path) for path in ("/a/b", "a:b", "./nbd", "images/http:x"))


def test_a_path_that_is_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSource, match="at most 75 bytes"):
        make_source(str(tmp_path / ("x" * 100)), URI, None)


def test_a_manifest_tells_right_from_wrong(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(b"a" * PIECE + b"b" * 100)
    (tmp_path / "manifest").write_bytes(make_manifest(tmp_path / "image", PIECE))
    manifest, digest = read_manifest(str(tmp_path / "manifest"))
    assert len(digest) == 64
    assert manifest.size_bytes == PIECE + 100
    assert manifest.is_right(0, b"a" * PIECE)
    assert manifest.is_right(1, b"b" * 100)
    assert not manifest.is_right(1, b"b" * 99)
    assert not manifest.is_right(0, b"b" * PIECE)


@pytest.mark.parametrize(
    "changes",
    [{"version": 2}, {"piece_bytes": 3 << 16}, {"piece_bytes": 4096}, {"sha256": []}, {"size_bytes": 1}],
)
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    (tmp_path / "image").write_bytes(bytes(2 * PIECE))
    content = msgspec.json.decode(make_manifest(tmp_path / "image", PIECE))
    (tmp_path / "manifest").write_bytes(msgspec.json.encode({**content, **changes}))
    with pytest.raises(LayerDamaged):
        read_manifest(str(tmp_path / "manifest"))
