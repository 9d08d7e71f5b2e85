"""What a build has besides what every system can give. Where it has not, options that ask for it are refused.

docs/portability.md says what that means for each.
"""

from ringblk.shm.platform.form import LINUX

HAS_URING = LINUX
"""io_uring (`uring_calls.pxd`)."""
HAS_SANDBOX = LINUX
"""Landlock and seccomp (`sandbox_calls.pyx`)."""
HAS_FILE_HANDLES = LINUX
"""Files that are opened by handle, and below a folder alone (`handles.pyx`, `folder_calls.pxd`)."""
HAS_MESSAGE_BATCHES = LINUX
"""sendmmsg(2) and recvmmsg(2), which note how far they came (`workers/nbd`)."""
HAS_ALL = LINUX
"""All of these, and each process can be watched by anybody (`process.pyx`)."""
