"""The shared folder: the second kind."""

import resource
from typing import cast

import msgspec

from ringblk.engine.devices.device_kind import DeviceKind
from ringblk.engine.devices.fs_device import FsDevice
from ringblk.engine.devices.fs_state import FsState
from ringblk.engine.options.drive_config import DriveConfig
from ringblk.engine.options.id_ranges import read_id_ranges
from ringblk.workers.backends.folder import FolderBackend
from ringblk.workers.backends.native import NativeBackend
from ringblk.workers.backends.python_folder import PythonFolderBackend
from ringblk.workers.fs.drive_requests import FolderRequests, PythonRequests
from ringblk.workers.fs.flags import (
    ACL_FLAGS,
    AUTO_FLAGS,
    BASE_FLAGS,
    DIRECT_OPEN,
    KEEP_OPEN,
    KILLPRIV_FLAGS,
    WINDOW_FLAGS,
    WINDOW_FLAGS2,
    WRITEBACK_FLAGS,
)
from ringblk.workers.fs.folder_state import FolderState
from ringblk.workers.fs.rules import OPERATION_NAMES
from ringblk.workers.fs.settings import ShareSettings

_VALID_S = {"auto": (1, 1), "always": (86400, 86400), "metadata": (86400, 86400), "never": (0, 0)}
"""How long a guest may go by a name and by an inode's attributes; virtiofsd's figures."""
_OPEN_FLAGS = {"auto": 0, "always": KEEP_OPEN, "metadata": DIRECT_OPEN, "never": DIRECT_OPEN}
_OPEN_LIMIT = 1024
"""Inodes that a process has open; fewer where the limit on descriptors is low."""
_CAPABILITIES = sum(1 << number for number in (0, 1, 2, 3, 4, 6, 7, 18, 27, 31))
"""CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID, SETGID, SETUID, SYS_CHROOT, MKNOD, SETFCAP."""
_CALLS = """
    openat2 open_by_handle_at name_to_handle_at statx getdents64 readlinkat fstatfs
    mkdirat mknodat unlinkat symlinkat linkat renameat2 ftruncate fchmod fchmodat2 fchownat utimensat
    fsetxattr fgetxattr flistxattr fremovexattr setxattrat getxattrat listxattrat removexattrat
    preadv pwritev2 fallocate copy_file_range fsync fdatasync syncfs
    setfsuid setfsgid geteuid getegid umask capget capset
"""


def make_device(config: DriveConfig, backend: NativeBackend) -> FsDevice:
    """The device as the driver is to see it."""
    assert config.tag is not None, "DriveConfig.check: a share has one"
    return FsDevice(config.tag, config.num_queues, _window_bytes(config), read_only=config.read_only)


def _window_bytes(config: DriveConfig) -> int:
    return 0 if config.dax == "never" else config.dax_window


def moved_state(config: DriveConfig, backend: NativeBackend) -> FsState:
    """What goes along with its guest."""
    share = cast("FolderBackend | PythonFolderBackend", backend)
    folder_fd = share.folder_fd if isinstance(share, FolderBackend) else -1
    return FsState(FolderState(share.memory_fd, folder_fd, _settings(config)))


def request_settings(config: DriveConfig) -> bytes:
    """What its processes need to know, as they are told it."""
    return msgspec.msgpack.encode(_settings(config))


def _settings(config: DriveConfig) -> ShareSettings:
    entry_valid_s, attr_valid_s = _VALID_S[config.guest_cache]
    is_cached = config.guest_cache in ("auto", "always")
    soft_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    uids = read_id_ranges("--translate-uid", config.translate_uid)
    gids = read_id_ranges("--translate-gid", config.translate_gid)
    return ShareSettings(
        is_read_only=config.read_only,
        has_xattr=config.xattr,
        is_stateless=is_cached and config.file_system is None,
        is_of_class=config.file_system is not None,
        entry_valid_s=entry_valid_s,
        attr_valid_s=attr_valid_s,
        open_flags=_OPEN_FLAGS[config.guest_cache],
        init_flags=BASE_FLAGS
        | (AUTO_FLAGS if config.guest_cache == "auto" else 0)
        | (ACL_FLAGS if config.posix_acl else 0)
        | (KILLPRIV_FLAGS if config.killpriv_v2 else 0)
        | (WRITEBACK_FLAGS if config.writeback else 0)
        | (0 if config.dax == "never" else WINDOW_FLAGS),
        init_flags2=WINDOW_FLAGS2 if config.dax == "inode" else 0,
        allows_direct=config.allow_direct_io,
        host_uids=uids.to_host,
        guest_uids=uids.to_guest,
        host_gids=gids.to_host,
        guest_gids=gids.to_guest,
        window_bytes=_window_bytes(config),
        open_limit=_OPEN_LIMIT if soft_limit < 0 else min(_OPEN_LIMIT, soft_limit // 4),
    )


def make_requests(settings: bytes, backend: NativeBackend) -> FolderRequests | PythonRequests:
    """In each process of the share."""
    decoded = msgspec.msgpack.decode(settings, type=ShareSettings)
    if decoded.is_of_class:
        return PythonRequests(cast("PythonFolderBackend", backend), decoded)
    return FolderRequests(cast("FolderBackend", backend), decoded)


KIND = DeviceKind(
    name="fs",
    operations=OPERATION_NAMES,
    make_device=make_device,
    request_settings=request_settings,
    make_requests=make_requests,
    moved_state=moved_state,
    kept_capabilities=_CAPABILITIES,
    opens_handles=True,
    system_calls=_CALLS,
)
