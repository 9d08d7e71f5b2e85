"""What operators are told is true: the domain is one to libvirt, the configuration one to the engine."""

import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from ringblk.engine.base.service_manager import HandedSocket
from ringblk.engine.doctor.checks import HOST_CHECKS
from ringblk.engine.doctor.image_checks import IMAGE_CHECKS
from ringblk.engine.options.config import make_config
from ringblk.engine.options.config_file import list_config, read_config_file
from ringblk.engine.options.handed_sockets import place_sockets

ROOT = Path(__file__).resolve().parent.parent
LIBVIRT = (ROOT / "docs" / "libvirt.md").read_text()
OPERATORS = (ROOT / "docs" / "operators.md").read_text()
SCHEMA = Path("/usr/share/libvirt/schemas/domain.rng")


def block(language: str, document: str = LIBVIRT) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", document, re.MULTILINE | re.DOTALL)
    return str(found)


def test_the_drive_with_a_socket_of_its_own_is_one(tmp_path: Path) -> None:
    path = tmp_path / "vm1.json"
    path.write_text(block("json"))
    config = make_config(place_sockets(read_config_file(str(path)), [HandedSocket("vm1", 3)]))
    assert [drive.fd for drive in config.drives.values()] == [3]


def test_the_list_of_drives_is_one(tmp_path: Path) -> None:
    path = tmp_path / "ringblk.toml"
    path.write_text(block("toml", OPERATORS))
    config = list_config(str(path), read_config_file(str(path)))
    assert list(config.drives) == ["vm1", "vm2"]
    assert all(str(drive.socket_path).startswith("/run/ringblk/") for drive in config.drives.values())


def test_the_domain_has_what_such_a_drive_needs() -> None:
    domain = ElementTree.fromstring(block("xml"))
    (access,) = domain.findall("memoryBacking/access")
    assert access.get("mode") == "shared"
    (disk,) = domain.findall("devices/disk")
    assert (disk.get("type"), disk.find("target").get("bus")) == ("vhostuser", "virtio")  # type: ignore[union-attr]
    (source,) = disk.findall("source")
    (socket_path,) = re.findall(r"^ListenStream=(.*)$", unit("ringblk@.socket"), re.MULTILINE)
    assert source.get("path") == socket_path.replace("%i", "vm1")
    (driver,) = disk.findall("driver")
    assert json.loads(block("json"))["num_queues"] == int(driver.get("queues", 0))


def unit(name: str) -> str:
    return (ROOT / "share" / "systemd" / name).read_text()


@pytest.mark.skipif(not (SCHEMA.exists() and shutil.which("xmllint")), reason="no schema of libvirt's here")
def test_libvirts_schema_takes_the_domain() -> None:
    command = ["xmllint", "--noout", "--relaxng", str(SCHEMA), "-"]
    done = subprocess.run(command, input=block("xml"), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_check_is_explained() -> None:
    """One row for each, three of them in one."""
    _, _, table = OPERATORS.partition("| Check | What is done |\n|---|---|\n")
    rows = table.partition("\n\n")[0].splitlines()
    names = [name for row in rows for name in row.split("|")[1].split(",")]
    assert len(names) == len(HOST_CHECKS) + len(IMAGE_CHECKS)
