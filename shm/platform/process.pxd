from posix.signal cimport sigset_t
from posix.types cimport pid_t

cdef int watch(pid_t pid) noexcept nogil                                # a descriptor, or a negative errno
cdef int send_signal(int watch_fd, pid_t pid, int number) noexcept nogil  # 0 or a negative errno
cdef int end_with_parent() noexcept nogil                               # 0, or a negative errno: nobody ends it
cdef int outlive_parent() noexcept nogil                                # the same undone
cdef void name_process(const char *name) noexcept nogil
# With HAS_ZYGOTE: SIGCHLD is blocked, and a descriptor readable once there was one; or a negative errno.
cdef int open_child_news(sigset_t *former_mask) noexcept nogil
cdef void drain_child_news(int news_fd) noexcept nogil
