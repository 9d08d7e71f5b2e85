"""`ringblk doctor URI` of what a base is fetched from: what it has, what it lacks, and that it is none.

The fault model: no server, one without the file or without ranges, content that nothing tells from other,
content that is no raw image.
"""

import random

from tests.rigs.doctor import run_doctor
from tests.rigs.http_source import HttpSource

CONTENT = random.Random(3).randbytes(1 << 20)


def test_a_source_that_has_all() -> None:
    with HttpSource(CONTENT) as source:
        status, found = run_doctor(source.uri)
    checks = found[source.uri]
    assert status == 0
    assert list(checks) == ["source", "encryption", "content", "reads", "format"]
    assert "1.00 MiB" in checks["source"].what
    assert (checks["encryption"].state, checks["content"].state) == ("warning", "ok")
    assert "etag" in checks["content"].what


def test_what_a_source_lacks() -> None:
    with HttpSource(b"QFI\xfb\0\0\0\3".ljust(4096, b"\0"), etag=None) as source:
        status, found = run_doctor(source.uri)
    checks = found[source.uri]
    assert status == 1
    assert checks["content"].state == "warning"
    assert "qcow2" in checks["format"].what


def test_what_is_no_source() -> None:
    with HttpSource(CONTENT) as source:
        source.refuses = 404
        status, found = run_doctor(source.uri)
        assert (status, found[source.uri]["source"].what) == (1, "the server says 404 Not Found")
    status, found = run_doctor(source.uri)
    assert status == 1
    assert "the server does not answer" in found[source.uri]["source"].what
