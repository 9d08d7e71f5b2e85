"""What a guest runs from a shared folder: the host's compiler, a tree for it, programs of our own."""

import hashlib
import os
import random
import shutil
import subprocess
import tarfile
from pathlib import Path

from scripts.guest_machine import find_program, shared_libraries

PROGRAMS = Path(__file__).parent.parent / "guest" / "programs"
COMPILE = """\
set -e
mkdir objects
for source in src/*.c; do
  object=objects/$(basename $source .c)
  cc1 -quiet -O1 -nostdinc -Isrc $source -o $object.s
  as $object.s -o $object.o
done
ld objects/*.o -o program
"""
"""Run by a shell in a folder that has a tree, with a compiler's parts in PATH."""
_MAIN = """\
#include "parts.h"

static long call(long number, long first, const void *second, long third)
{
  long result;
  __asm__ volatile("syscall"
                   : "=a"(result) : "a"(number), "D"(first), "S"(second), "d"(third)
                   : "rcx", "r11", "memory");
  return result;
}

void _start(void)
{
  static char text[17];
  unsigned long value = PARTS(0);
  for (int i = 0; i < 16; i++)
    text[i] = "0123456789abcdef"[value >> (60 - 4 * i) & 15];
  text[16] = '\\n';
  call(1, 1, text, sizeof text);
  call(60, 0, 0, 0);
}
"""


def build_program(name: str, folder: Path) -> Path:
    """Compile a program of `tests/guest/programs`, which needs no library where it runs."""
    program = folder / name
    source = PROGRAMS / f"{name}.c"
    subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-static", "-o", program, source], check=True)
    return program


def copy_compiler(folder: Path) -> None:
    """The parts of gcc and what they are loaded with: PATH and LD_LIBRARY_PATH are this folder then."""
    for name in ("cc1", "as", "ld"):
        said = subprocess.run(["gcc", f"-print-prog-name={name}"], capture_output=True, text=True, check=True)
        program = find_program(said.stdout.strip())
        assert program is not None, name
        shutil.copy(program, folder / name)
        for library in shared_libraries(Path(program)):
            shutil.copy(library, folder)


def make_tree(path: Path, file_count: int, seed: int) -> None:
    """A tar archive of a C program that needs nothing, in several files."""
    chosen = random.Random(seed)
    numbers = range(file_count)
    header = "".join(f"unsigned long part_{number}(unsigned long value);\n" for number in numbers)
    header += (
        f"#define PARTS(value) {'('.join(f'part_{number}' for number in numbers)}(value{')' * file_count}\n"
    )
    texts = {"parts.h": header, "main.c": _MAIN}
    for number in numbers:
        steps = "".join(
            f"  value = (value ^ {chosen.getrandbits(32)}UL) * {chosen.getrandbits(32) | 1}UL;\n"
            for _ in range(chosen.randrange(5, 40))
        )
        signature = f"unsigned long part_{number}(unsigned long value)"
        texts[f"part_{number}.c"] = f'#include "parts.h"\n{signature}\n{{\n{steps}  return value;\n}}\n'
    folder = path.with_suffix("")
    (folder / "src").mkdir(parents=True)
    for name, text in texts.items():
        (folder / "src" / name).write_text(text)
    with tarfile.open(path, "w") as archive:
        archive.add(folder / "src", "src")


def compile_here(tree: Path, tools: Path) -> None:
    """What the guest is to do, on the host."""
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "LD_LIBRARY_PATH": str(tools)}
    subprocess.run(["sh", "-c", COMPILE], cwd=tree, env=environment, check=True)


def digests(folder: Path) -> dict[str, str]:
    """Each file's SHA-256 by its path in the folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def digests_said(output: str) -> dict[str, str]:
    """The same, of what sha256sum says of relative paths."""
    found = (line.split() for line in output.splitlines())
    return {name.removeprefix("./"): digest for digest, name in found}
