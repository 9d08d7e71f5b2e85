"""A real systemd, as a user's service manager, with units of a test's own (systemd(1), `--user`).

It believes that the machine was booted with systemd, as it sees a /run of its own. Units have names that no
other manager has: all that a machine has share its control groups.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from tests.rigs.child_process import ends_with_tests, wait_end
from tests.rigs.engine_rig import DEADLINE_S, eventually

_SYSTEMD = "/lib/systemd/systemd"
_BEGIN = (
    f"mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system && exec {_SYSTEMD} --user --unit=test.target"
)


def why_not() -> str:
    """Why there can be none here; nothing where there can."""
    if not (os.path.exists(_SYSTEMD) and shutil.which("systemctl")):
        return "no systemd"
    tried = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/run"],
        capture_output=True,
        text=True,
        check=False,
    )
    return f"no mount namespace of one's own: {tried.stderr.strip()}" if tried.returncode else ""


class UserManager:
    """One that runs, until `close`."""

    def __init__(self, folder: Path, units: Mapping[str, str]) -> None:
        """The files of `units` stand in a folder of its own, by their paths there."""
        self._runtime = folder / "runtime"
        self._runtime.mkdir(mode=0o700)
        units_folder = folder / "units"
        for name, text in {"test.target": "[Unit]\nDefaultDependencies=no\n", **units}.items():
            path = units_folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        self._environment = {
            **os.environ,
            "XDG_RUNTIME_DIR": str(self._runtime),
            "SYSTEMD_UNIT_PATH": f"{units_folder}:",  # and what a user's manager has
        }
        self._log_path = folder / "manager.log"
        with self._log_path.open("wb") as log:
            self.process = subprocess.Popen(
                ends_with_tests(["unshare", "--mount", "sh", "-c", _BEGIN]),
                env=self._environment,
                stdout=log,
                stderr=log,
            )
        eventually(lambda: self.process.poll() is not None or self._answers(), "the manager")
        assert self.process.poll() is None, self._log_path.read_text()

    def _answers(self) -> bool:
        return self._ask("is-active", "test.target").stdout.strip() == "active"

    def _ask(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["systemctl", "--user", "--no-pager", *words],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )

    def tell(self, *words: str) -> None:
        """Do what systemctl(1) does with these words."""
        done = self._ask(*words)
        assert done.returncode == 0, f"{done.stderr}{self._ask('status', words[-1]).stdout}"

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self._ask("show", unit, f"--property={name}", "--value").stdout.strip()

    def close(self) -> None:
        """End it, with the services that it has."""
        self.process.terminate()
        wait_end(self.process, DEADLINE_S)

    def __enter__(self) -> "UserManager":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            print(self._log_path.read_text(), file=sys.stderr)
        self.close()
