"""The line at its start that says what an engine is."""

from pathlib import Path

import pytest

from tests.rigs.engine_rig import Engine


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--direct=off", "--io-engine=psync"], "not direct (not asked for), I/O engine psync (asked for)"),
        (["--io-engine=sync", "--sandbox=off"], "I/O engine sync (asked for), sandbox off"),
        (["--direct=on", "--read-only"], "direct (asked for), I/O engine "),
    ],
)
def test_the_first_line_says_what_the_engine_is(tmp_path: Path, options: list[str], told: str) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(4 << 20))
    with Engine(f"--blk-file={image}", "--workers=1", *options) as engine:
        lines = [line for line in engine.log().splitlines() if "I/O engine" in line]
        read_only = ", read-only" if "--read-only" in options else ""
        assert len(lines) == 1
        assert f"INFO: {image}, 4.00 MiB{read_only}, at {engine.socket_path}: " in lines[0]
        assert told in lines[0]
