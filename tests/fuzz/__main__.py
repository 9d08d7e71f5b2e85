"""Coverage-guided fuzzing of the two parsers: `./scripts/fuzz --help`.

Each target runs in a process of its own with the sanitizers loaded. New inputs go to .cache/fuzz/TARGET,
findings to .cache/fuzz/findings.
"""

import argparse
import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.rigs.sanitizer_build import fuzz_build, sanitizer_environment
from tests.rigs.separate_build import ROOT

TARGETS = ("chain", "session")
CORPUS = Path(__file__).parent / "corpus"
FOUND = ROOT / ".cache" / "fuzz"
FINDINGS = FOUND / "findings"
INPUT_BYTES = {"chain": 512, "session": 1024}
CORPUS_BYTES = 64 << 10
"""Of a corpus in the tree; longer inputs are left out."""
HANG_S = 600
"""A single input that takes so long hangs. It takes milliseconds; the rest is for a machine at a stop."""


def command(target: str, *arguments: str) -> list[str]:
    """The command line of a process that fuzzes."""
    return [sys.executable, "-m", "tests.fuzz.target_process", target, *arguments]


def fuzz(target: str, seconds: int, seed: int) -> int:
    """Fuzz for so long; 0 where nothing was found."""
    for folder in (FOUND / target, FINDINGS):
        folder.mkdir(parents=True, exist_ok=True)
    options = [
        f"-max_total_time={seconds}",
        f"-seed={seed}",
        f"-max_len={INPUT_BYTES[target]}",
        f"-timeout={HANG_S}",
        f"-artifact_prefix={FINDINGS}/{target}-",
        "-len_control=0",
        "-print_final_stats=1",
    ]
    return run(command(target, *options, str(FOUND / target), str(corpus_folder(target))))


def corpus_folder(target: str) -> Path:
    """The inputs of the tree, unpacked: libFuzzer wants a file for each."""
    folder = empty_folder(f"{target}-corpus")
    for index, line in enumerate(corpus_file(target).read_text().split()):
        (folder / f"{index:04}").write_bytes(bytes.fromhex(line))
    return folder


def corpus_file(target: str) -> Path:
    """The inputs of the tree: one a line, in hexadecimal digits."""
    return CORPUS / f"{target}.hex"


def minimise(target: str) -> int:
    """Put the smallest set of all inputs that reaches the same code into the corpus of the tree."""
    merged = empty_folder(f"{target}-merged")
    (FOUND / target).mkdir(exist_ok=True)
    sources = [str(corpus_folder(target)), str(FOUND / target)]
    status = run(command(target, "-merge=1", str(merged), *sources))
    inputs = sorted((path.read_bytes() for path in merged.iterdir()), key=lambda data: (len(data), data))
    if status == 0 and inputs:
        lines = itertools.accumulate(f"{data.hex()}\n" for data in inputs)
        corpus_file(target).write_text([text for text in lines if len(text) <= CORPUS_BYTES][-1])
    return status


def empty_folder(name: str) -> Path:
    """A folder of that name in .cache/fuzz, with nothing in it."""
    folder = FOUND / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def replay(path: Path) -> int:
    """Run one input; 0 where all goes well. Its name says of which target it is."""
    target = next((name for name in TARGETS if name in (path.name.partition("-")[0], path.parent.name)), None)
    if target is None:
        print(f"fuzz: {path} begins with no target's name: {', '.join(TARGETS)}", file=sys.stderr)
        return 2
    return run(command(target, str(path.resolve())))


def run(arguments: list[str]) -> int:
    """Run a process that fuzzes to its end."""
    return subprocess.run(
        arguments, cwd=ROOT, env=sanitizer_environment(fuzz_build()), check=False
    ).returncode


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="fuzz", description="Fuzz the chain parser and the vhost-user session."
    )
    parser.add_argument("--target", choices=TARGETS, help="only this one (both, one after the other)")
    parser.add_argument("--minutes", type=float, default=1.0, help="how long in all (1)")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "little"), help="(any)")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run one input, such as a finding")
    parser.add_argument(
        "--minimise", action="store_true", help="renew the corpus in the tree from what was found"
    )
    options = parser.parse_args()
    if options.replay:
        return replay(options.replay)
    targets = [options.target] if options.target else list(TARGETS)
    if options.minimise:
        return max(minimise(target) for target in targets)
    seconds = max(1, round(60 * options.minutes / len(targets)))
    for target in targets:
        print(f"fuzz: {target}, {seconds} s, seed {options.seed}", file=sys.stderr)
        if status := fuzz(target, seconds, options.seed):
            print(f"fuzz: a finding in {FINDINGS}; ./scripts/fuzz --replay FILE", file=sys.stderr)
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
