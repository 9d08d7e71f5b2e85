"""A drive's storage: opened before all else, closed when no process uses it any more."""

import asyncio
import logging
from functools import partial
from typing import NamedTuple

from ringblk.engine.base.exit_status import ExitStatus
from ringblk.engine.base.in_thread import in_thread
from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.devices.io_plan import IoPlan
from ringblk.engine.options.drive_config import DriveConfig
from ringblk.shm.platform.descriptors import open_descriptors
from ringblk.workers.backends.interface import BackendError, BaseImageError
from ringblk.workers.backends.native import NativeBackend
from ringblk.workers.backends.opening import (
    open_file_system,
    open_folder_backend,
    open_image_backend,
    open_named_backend,
    open_overlay_backend,
    open_remote_backend,
    open_tracked_backend,
)
from ringblk.workers.fetch.source_form import (
    BadSource,
    is_source,
    is_uri,
    make_source,
    set_limit,
    source_folder,
)
from ringblk.workers.layers.form import LayerDamaged


class OpenedStorage(NamedTuple):
    """A drive's storage, before anything is made of it."""

    backend: NativeBackend
    fds: frozenset[int]
    """What its processes have for it."""
    io: IoPlan
    """How requests on it are carried out."""


_log = logging.getLogger(__name__)


def open_storage(config: DriveConfig, *, is_sole: bool) -> tuple[NativeBackend, frozenset[int]]:
    """The backend that the options name, and the descriptors that its processes have for it.

    In an engine that is for the drive alone, that is all that is open but the front end's socket: a user's
    class may use what the engine was given. Raises `ProgramError`.
    """
    former_fds = {config.fd} if is_sole else open_descriptors() if config.runs_user_code else set()
    try:
        backend = _open_backend(config)
        if config.runs_user_code or is_sole:
            return backend, frozenset(open_descriptors() - former_fds)
        return backend, frozenset(backend.fds)
    except (BackendError, ValueError) as error:
        raise ProgramError(str(error), ExitStatus.FAILED) from error
    except OSError as error:
        raise ProgramError(
            f"{config.storage_option}: {error.strerror or error}", ExitStatus.FAILED
        ) from error


def _open_backend(config: DriveConfig) -> NativeBackend:
    """The drive's storage. Raises `ProgramError`, `BackendError` or `OSError`."""
    if config.backend is not None:
        return open_named_backend(config.backend, config.backend_arg)
    if config.file_system is not None:
        return open_file_system(config.file_system, config.backend_arg)
    try:
        if config.shared_dir is not None:
            return open_folder_backend(config.shared_dir)
        if config.overlay is not None:
            return open_overlay_backend(
                base_path(config),
                config.overlay,
                size_bytes=config.overlay_size,
                direct=config.direct,
                snapshot=config.base_snapshot,
            )
        if config.uri is not None:
            return open_remote_backend(
                config.uri,
                read_only=config.read_only,
                reconnect_s=config.reconnect_s,
                connections=config.connections or 1,
                rbd_conf=config.rbd_conf,
                rbd_user=config.rbd_user,
            )
        assert config.blk_file is not None, "DriveConfig.check: one of them is given"
        if config.track_changes is not None:
            return open_tracked_backend(config.blk_file, config.track_changes, direct=config.direct)
        return open_image_backend(config.blk_file, read_only=config.read_only, direct=config.direct)
    except BaseImageError as error:
        raise ProgramError(f"--base {error}", ExitStatus.FAILED) from error
    except BackendError as error:
        raise ProgramError(f"{config.storage_option.partition(' ')[0]} {error}", ExitStatus.FAILED) from error


SAVE_S = 60.0
"""How long a drive's end waits for its disk to take what closing the storage brings to it."""


async def save_storage(backend: NativeBackend, save_s: float = SAVE_S) -> bool:
    """Bring to the disk what `close_storage` would wait for, beside all else.

    False, and a log line: the disk does not answer. Who closes the storage would wait for it, too, and its
    descriptors are in use.
    """
    if not backend.saves_at_close:
        return True
    saving = asyncio.get_running_loop().create_task(in_thread(partial(_try_to_save, backend)))
    if (await asyncio.wait([saving], timeout=save_s))[0]:
        return True
    _log.error("its disk does not answer within %g s: the storage is left open", save_s)
    saving.cancel()
    return False


def _try_to_save(backend: NativeBackend) -> None:
    try:
        backend.save()
    except OSError:
        _log.debug("closing tries again, and says why not", exc_info=True)


def base_place(config: DriveConfig) -> str | None:
    """Where the base is; of one that is elsewhere, the folder of what is fetched. Looks at no disk."""
    if config.base is None or config.base_cache is None:
        return config.base
    return source_folder(config.base_cache, config.base)


def base_path(config: DriveConfig) -> str | None:
    """The same, and see that it is there. Raises `ProgramError`."""
    if config.base is None:
        return None
    try:
        path = config.base
        if is_uri(path):
            assert config.base_cache is not None, "DriveConfig.check"
            path = make_source(config.base_cache, path, config.base_manifest)
            if config.base_cache_size is not None:
                set_limit(config.base_cache, config.base_cache_size)
    except BadSource as error:
        raise ProgramError(f"--base-cache {error}", ExitStatus.FAILED) from error
    except LayerDamaged as error:
        raise ProgramError(f"--base-cache {config.base_cache}: {error}", ExitStatus.FAILED) from error
    except OSError as error:
        reason = error.strerror or error
        raise ProgramError(f"--base-cache {config.base_cache}: {reason}", ExitStatus.FAILED) from error
    if config.user is not None and is_source(path):
        raise ProgramError("--user: not with a base that is fetched: start the engine as that user")
    return path


def close_storage(backend: NativeBackend) -> bool:
    """Let go of the storage, which no child uses any more; False, and a log line, where that fails."""
    try:
        backend.close()
    except (Exception, SystemExit):  # a user's own method: anything may come of it
        _log.exception("closing the backend failed")
        return False
    return True
