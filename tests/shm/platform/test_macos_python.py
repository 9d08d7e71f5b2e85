"""Where Python has no more than on macOS, and nothing is built of what other systems are not to have.

Nothing of macOS runs here: it is the Python of this host with all names taken away that its stubs give to
Linux alone. What is compiled is of this host, too.
"""

import json
import subprocess
import sys

from tests.rigs.portable_build import modules_of_linux
from tests.rigs.system_names import MODULES, names_of

_IMPORT_ALL = """
import asyncio, importlib, importlib.abc, json, multiprocessing, pkgutil, subprocess, sys, tempfile

taken, absent = json.loads(sys.argv[1])


class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Absent())
for module, names in taken.items():
    for name in names:
        vars(importlib.import_module(module)).pop(name, None)
sys.platform = "darwin"
failed = {}
import ringblk

for found in pkgutil.walk_packages(ringblk.__path__, "ringblk."):
    if found.name not in absent and not found.name.endswith("__main__"):
        try:
            importlib.import_module(found.name)
        except Exception as error:
            failed[found.name] = f"{type(error).__name__}: {error}"
print(json.dumps(failed))
"""
OF_ABSENT_ONES = ("ringblk.workers.nbd.", "ringblk.workers.backends.nbd_open")
"""Modules in Python of what is left out, which nobody imports where it is refused."""


def test_all_else_is_imported() -> None:
    taken = {module: sorted(names_of(module, "linux") - names_of(module, "darwin")) for module in MODULES}
    absent = modules_of_linux()
    assert "ringblk.workers.nbd.handshake" in absent
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT_ALL, json.dumps([taken, absent])],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    failed = json.loads(done.stdout)
    assert {name: why for name, why in failed.items() if not name.startswith(OF_ABSENT_ONES)} == {}
    assert set(failed) != set()
