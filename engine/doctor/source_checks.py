"""What a drive would find whose base is fetched over HTTP: asked as its fetcher asks."""

import time

from ringblk.engine.base.number_text import size_text
from ringblk.engine.doctor.check import CheckResult, failure, ok, warning
from ringblk.engine.fetcher.source import Source, SourceFault, make_source
from ringblk.engine.images.format import CONTAINER_HEAD_BYTES, TAIL_BYTES, find_container

_PROBE_BYTES = 1 << 20


def is_source_uri(text: str) -> bool:
    """Whether this names what is only ever a base."""
    return text.startswith(("http:", "https:"))


def check_source(uri: str) -> list[CheckResult]:
    """All checks of a source that this names."""
    begun_ns = time.monotonic_ns()
    try:
        source = make_source(uri)
        source.prepare()
        size_bytes, marks = source.look()
        took_ms = (time.monotonic_ns() - begun_ns) / 1e6
        checks = [
            ok("source", f"has said what there is after {took_ms:.1f} ms, {size_text(size_bytes)}"),
            _check_encryption(uri),
            _check_marks(marks),
        ]
        return [*checks, _check_reads(source, size_bytes), _check_content(source, size_bytes)]
    except SourceFault as error:
        return [failure("source", str(error), "look at the server, its name and port, and the path on it")]


def _check_encryption(uri: str) -> CheckResult:
    if uri.startswith("https:"):
        return ok("encryption", "TLS, by certificates")
    mend = "https:, or --base-manifest, so that nothing else is served"
    return warning("encryption", "none: whoever has the network changes what guests read", mend)


def _check_marks(marks: dict[str, str]) -> CheckResult:
    if marks:
        return ok("content", f"is told from other by {' and '.join(sorted(marks))}")
    mend = "a server that says ETag or Last-Modified, or --base-manifest"
    return warning("content", "another one of the same size would not be noticed", mend)


def _check_reads(source: Source, size_bytes: int) -> CheckResult:
    """Raises `SourceFault`."""
    took_s = []
    for length in (1, min(size_bytes, _PROBE_BYTES)):
        begun_s = time.monotonic()
        source.read(0, length)
        took_s.append(time.monotonic() - begun_s)
    return ok(
        "reads", f"a byte takes {took_s[0] * 1e3:.1f} ms, {size_text(length)} take {took_s[1] * 1e3:.1f} ms"
    )


def _check_content(source: Source, size_bytes: int) -> CheckResult:
    """Raises `SourceFault`."""
    if size_bytes < TAIL_BYTES:
        return failure("format", f"it has only {size_bytes} bytes", "name a raw image")
    head = source.read(0, min(CONTAINER_HEAD_BYTES, size_bytes))
    container = find_container(head, source.read(size_bytes - TAIL_BYTES, TAIL_BYTES))
    if container is None:
        return ok("format", "raw")
    return failure(
        "format", f"this is a {container} file, and only raw images are served", "put a raw image there"
    )
