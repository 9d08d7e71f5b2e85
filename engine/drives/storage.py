"""A drive's storage: opened before all else, closed when no process uses it any more."""

import logging

from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.options.config import EngineConfig
from ringblk.workers.backends.interface import BackendError
from ringblk.workers.backends.native import NativeBackend
from ringblk.workers.backends.opening import open_image_backend, open_named_backend

_log = logging.getLogger(__name__)


def open_storage(config: EngineConfig) -> NativeBackend:
    """The backend that the options name. Raises `ProgramError`."""
    try:
        return _open_backend(config)
    except (BackendError, ValueError) as error:
        raise ProgramError(str(error), exit_status=1) from error
    except OSError as error:
        raise ProgramError(f"--blk-file {config.blk_file}: {error.strerror or error}", 1) from error


def _open_backend(config: EngineConfig) -> NativeBackend:
    """The drive's storage. Raises `ProgramError`, `BackendError` or `OSError`."""
    if config.blk_file is None:
        assert config.backend is not None  # EngineConfig.check: one of the two is given
        return open_named_backend(config.backend, config.backend_arg)
    try:
        return open_image_backend(config.blk_file, read_only=config.read_only, direct=config.direct)
    except BackendError as error:
        raise ProgramError(f"--blk-file {error}", exit_status=1) from error


def close_storage(backend: NativeBackend) -> bool:
    """Let go of the storage, which no child uses any more; False, and a log line, where that fails."""
    try:
        backend.close()
    except (Exception, SystemExit):  # a user's own method: anything may come of it
        _log.exception("closing the backend failed")
        return False
    return True
