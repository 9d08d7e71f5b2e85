"""Devices and file systems to keep a drive on, as the tests of workers have them."""

from tests.workers.conftest import loop_device, mount, shm_path

__all__ = ["loop_device", "mount", "shm_path"]
