"""A build of the package that records what it does to files, for processes that write and flush at once.

A recorder under the files (ringblk.crashes) sees all, and never a flush while a write of the same file is
under way: the kernel keeps these apart in a file system in user space. Here each call leaves an event as it
begins and one as it ends (workers/files/file_calls.pxd), in the same form. Sizes and names of files stay, and
what goes through io_uring or a mapping is not seen.
"""

from pathlib import Path

from tests.rigs.separate_build import SeparateBuild

_RECORDED_MODULES = ("ringblk.workers.backends.file", "ringblk.workers.layers.journal")


def recording_build() -> Path:
    """The folder to put into PYTHONPATH: all that write to files note it in $RINGBLK_RECORD."""
    return SeparateBuild("recording-build", ("-O1", "-g0", "-DRINGBLK_RECORD"), _RECORDED_MODULES).make()
