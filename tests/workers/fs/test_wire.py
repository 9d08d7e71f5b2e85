"""FUSE's messages as they are declared here, against the kernel's own header."""

import re
import subprocess
from pathlib import Path

import pytest

HEADER = Path("/usr/include/linux/fuse.h")
FOLDER = Path(__file__).resolve().parents[3] / "workers" / "fs"
STRUCT = re.compile(r"^cdef packed struct (\w+):\n((?:    .*\n)+)", re.MULTILINE)
FIELD = re.compile(r"^    \S+ (\w+)$", re.MULTILINE)
CONSTANT = re.compile(r"^    (F\w+) = ([^#\n]+)", re.MULTILINE)
OTHER_NAMES = {"FUSE_STATX": 39}
"""What came after 7.38, and with which minor version."""

needs_header = pytest.mark.skipif(not HEADER.exists(), reason="the kernel's headers are not installed")


def minor_version() -> int:
    found = re.search(r"#define FUSE_KERNEL_MINOR_VERSION (\d+)", HEADER.read_text())
    assert found is not None
    return int(found[1])


def compiled(folder: Path, text: str) -> str:
    """What a C program prints whose `main` has these statements."""
    source = folder / "program.c"
    includes = "".join(f"#include <{name}>\n" for name in ("stddef.h", "stdio.h", "linux/fuse.h"))
    source.write_text(f"{includes}int main(void) {{\n{text}\nreturn 0; }}\n")
    subprocess.run(["gcc", "-o", folder / "program", source], check=True)
    return subprocess.run([folder / "program"], check=True, capture_output=True, text=True).stdout


def declared_sizes(folder: Path) -> dict[str, int]:
    """The offset of each field and the size of each structure as declared here, by a C compiler, too."""
    text = (FOLDER / "wire.pxd").read_text()
    declarations, prints = ["#include <stddef.h>", "#include <stdio.h>", "#include <stdint.h>"], []
    for name, body in STRUCT.findall(text):
        fields = re.sub(r"^    (\w+)\[(\d+)\] (\w+)$", r"    \1 \3[\2];", body, flags=re.MULTILINE)
        fields = re.sub(r"^    (\w+) (\w+)$", r"    \1 \2;", fields, flags=re.MULTILINE)
        declarations.append(f"typedef struct __attribute__((packed)) {{\n{fields}}} {name};")
        prints.append(f'printf("{name} %zu\\n", sizeof({name}));')
        prints += [
            f'printf("{name}.{field} %zu\\n", offsetof({name}, {field}));' for field in FIELD.findall(body)
        ]
    source = folder / "declared.c"
    source.write_text("\n".join([*declarations, "int main(void) {", *prints, "return 0; }\n"]))
    subprocess.run(["gcc", "-o", folder / "declared", source], check=True)
    output = subprocess.run([folder / "declared"], check=True, capture_output=True, text=True).stdout
    return {line.split()[0]: int(line.split()[1]) for line in output.splitlines()}


@needs_header
def test_structures_are_the_kernels(tmp_path: Path) -> None:
    declared = declared_sizes(tmp_path)
    assert len(declared) > 200
    known = HEADER.read_text()
    places = [name for name in declared if re.search(rf"struct {name.partition('.')[0]} {{", known)]
    text = "\n".join(
        f'printf("{name} %zu\\n", '
        + (f"offsetof(struct {name.replace('.', ', ')})" if "." in name else f"sizeof(struct {name})")
        + ");"
        for name in places
    )
    kernels = dict(line.split() for line in compiled(tmp_path, text).splitlines())
    assert len(kernels) >= 200
    assert {name: int(place) for name, place in kernels.items()} == {name: declared[name] for name in places}


@needs_header
def test_numbers_are_the_kernels(tmp_path: Path) -> None:
    constants = {
        name: eval(value, {}) << (32 if name == "FUSE_HAS_INODE_DAX" else 0)
        for name, value in CONSTANT.findall((FOLDER / "protocol.pxd").read_text())
        if OTHER_NAMES.get(name, 0) <= minor_version() and name != "FUSE_KERNEL_MINOR_VERSION"
    }
    assert len(constants) > 80
    text = "\n".join(f'printf("{name} %llu\\n", (unsigned long long){name});' for name in constants)
    kernels = dict(line.split() for line in compiled(tmp_path, text).splitlines())
    assert {name: int(value) for name, value in kernels.items()} == constants
