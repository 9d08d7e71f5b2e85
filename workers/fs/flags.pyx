# cython: language_level=3
"""What is offered to a guest in INIT, by what a share was set up as; and how its opened files are cached."""

from ringblk.workers.fs.protocol cimport *

BASE_FLAGS = (FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO | FUSE_ASYNC_DIO
              | FUSE_PARALLEL_DIROPS | FUSE_MAX_PAGES | FUSE_INIT_EXT | FUSE_NO_OPEN_SUPPORT | FUSE_NO_OPENDIR_SUPPORT)
"""For every guest that knows them."""
AUTO_FLAGS = FUSE_AUTO_INVAL_DATA
"""Have the guest drop what it has of a file that another has changed."""
ACL_FLAGS = FUSE_POSIX_ACL | FUSE_DONT_MASK | FUSE_SETXATTR_EXT
"""Access control lists: the host applies the guest's umask, or the folder's default list."""
DIRECT_OPEN = FOPEN_DIRECT_IO
KEEP_OPEN = FOPEN_KEEP_CACHE | FOPEN_CACHE_DIR
WINDOW_FLAGS = FUSE_MAP_ALIGNMENT
WINDOW_FLAGS2 = FUSE_HAS_INODE_DAX
KILLPRIV_FLAGS = FUSE_HANDLE_KILLPRIV_V2
"""Whoever writes to a file takes its set-user-id from it: the host does, the guest need not ask."""
WRITEBACK_FLAGS = FUSE_WRITEBACK_CACHE
"""The guest gathers what is written."""
