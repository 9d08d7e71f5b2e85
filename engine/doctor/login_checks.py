"""What a login manager takes from a user who logs out."""

import configparser
import glob
import os
import pwd

from ringblk.engine.doctor.check import CheckResult, ok, warning
from ringblk.engine.doctor.host_checks import Need

LOGIND_RUNS = "/run/systemd/seats"
LOGIND_FILES = ("/etc/systemd/logind.conf", "/run/systemd/logind.conf", "/usr/lib/systemd/logind.conf")
LINGER_FOLDER = "/var/lib/systemd/linger"
_FIRST_USER_ID = 1000
"""Below are system users, whose things stay (logind.conf(5))."""


def check_remove_ipc(_: Need) -> CheckResult:
    """Whether shared memory of this user is removed when the user's last session ends (logind.conf(5))."""
    name = "RemoveIPC"
    user_id = os.geteuid()
    if user_id < _FIRST_USER_ID or user_id == 65534:
        return ok(name, "of no concern to a system user")
    if not os.path.isdir(LOGIND_RUNS):
        return ok(name, "no systemd-logind runs here")
    if not removes_ipc(LOGIND_FILES):
        return ok(name, "is off")
    user_name = _user_name(user_id)
    if os.path.exists(os.path.join(LINGER_FOLDER, user_name)):
        return ok(name, f"is on, and {user_name} lingers")
    what = (
        f"the names of this user's shared memory go when {user_name} logs out: rate groups come apart, and"
        " what was set while an engine ran is lost with it"
    )
    return warning(name, what, f"RemoveIPC=no in {LOGIND_FILES[0]}, or loginctl enable-linger {user_name}")


def _user_name(user_id: int) -> str:
    try:
        return pwd.getpwuid(user_id).pw_name
    except KeyError:
        return str(user_id)


def removes_ipc(files: tuple[str, ...]) -> bool:
    """What the first of these files there is says, and after it the drop-ins beside all of them, by name."""
    main = [path for path in files if os.path.exists(path)][:1]
    drop_ins: dict[str, str] = {}
    for path in reversed(files):  # one in /etc stands for those of its name elsewhere
        drop_ins |= {os.path.basename(found): found for found in glob.glob(f"{glob.escape(path)}.d/*.conf")}
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    for path in [*main, *(drop_ins[name] for name in sorted(drop_ins))]:
        try:
            parser.read(path)
        except (configparser.Error, UnicodeDecodeError):
            continue
    value = parser.get("Login", "RemoveIPC", fallback="").strip().lower()
    return value not in ("no", "n", "false", "f", "off", "0")
