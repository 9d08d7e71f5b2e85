# cython: language_level=3
"""Processes: watched, signalled, ended with their parent, named.

A process is watched by a descriptor that is readable once it has ended, all its threads included. Linux has one for
every process (pidfd_open(2)), and so has macOS (a kqueue with NOTE_EXIT). The portable form knows the ends of this
process's own children, from SIGCHLD: the watch is a pipe, which the signal's handler writes to.

Without a process descriptor a signal is sent by the process's number. That is the process that is meant for as long as
nobody has reaped it, so a watch that says that it has ended is believed first.
"""

import os

from libc.errno cimport errno
from libc.signal cimport SIGKILL
from posix.signal cimport sigset_t
from posix.types cimport pid_t

from ringblk.shm.platform.form cimport IS_LINUX

cdef extern from * nogil:
    """
    #include <errno.h>
    #include <fcntl.h>
    #include <poll.h>
    #include <signal.h>
    #include <string.h>
    #include <sys/wait.h>
    #include <unistd.h>
    /* What listings show; no part of the forms, as nothing but people depends on it. */
    #ifdef __linux__
    #include <sys/prctl.h>
    static void ringblk_name_process(const char *name) { prctl(PR_SET_NAME, name); }
    #elif defined(__APPLE__)
    #include <pthread.h>
    static void ringblk_name_process(const char *name) { pthread_setname_np(name); }
    #else
    static void ringblk_name_process(const char *name) { (void)name; }
    #endif
    #if RINGBLK_LINUX
    #include <sys/syscall.h>
    #ifndef __NR_pidfd_send_signal
    #define __NR_pidfd_send_signal 424
    #endif
    #ifndef __NR_pidfd_open
    #define __NR_pidfd_open 434
    #endif
    #ifndef __NR_pidfd_getfd
    #define __NR_pidfd_getfd 438
    #endif
    #define RINGBLK_WATCHES_ANY 1
    static int ringblk_watch(pid_t pid) { return (int)syscall(__NR_pidfd_open, pid, 0); }
    static int ringblk_send_signal(int watch_fd, pid_t pid, int number) {
        (void)pid;
        return (int)syscall(__NR_pidfd_send_signal, watch_fd, number, NULL, 0);
    }
    #include <sys/signalfd.h>
    static int ringblk_open_child_news(sigset_t *former_mask) {
        sigset_t mask;
        sigemptyset(&mask);
        sigaddset(&mask, SIGCHLD);
        sigprocmask(SIG_BLOCK, &mask, former_mask);
        return signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
    }
    static void ringblk_drain_child_news(int news_fd) {
        struct signalfd_siginfo caught[8];
        while (read(news_fd, caught, sizeof caught) > 0)
            ;
    }
    static int ringblk_copy_fd(int watch_fd, int fd) { return (int)syscall(__NR_pidfd_getfd, watch_fd, fd, 0); }
    static int ringblk_end_with_parent(int number) { return prctl(PR_SET_PDEATHSIG, number); }
    static int ringblk_ends_with_parent(void) { int number = 0; prctl(PR_GET_PDEATHSIG, &number); return number; }
    #else
    static int ringblk_open_child_news(sigset_t *former_mask) { (void)former_mask; errno = ENOSYS; return -1; }
    static void ringblk_drain_child_news(int news_fd) { (void)news_fd; }
    static int ringblk_copy_fd(int watch_fd, int fd) { (void)watch_fd; (void)fd; errno = ENOSYS; return -1; }
    static int ringblk_end_with_parent(int number) { (void)number; errno = ENOSYS; return -1; }
    static int ringblk_ends_with_parent(void) { return 0; }
    static int ringblk_send_signal(int watch_fd, pid_t pid, int number) {
        struct pollfd watch = { watch_fd, POLLIN, 0 };
        if (poll(&watch, 1, 0) != 0) {
            errno = ESRCH;
            return -1;
        }
        return kill(pid, number);
    }
    static int ringblk_pipe(int *ends) {
        if (pipe(ends) < 0)
            return -1;
        for (int index = 0; index < 2; index++) {
            fcntl(ends[index], F_SETFD, FD_CLOEXEC);
            fcntl(ends[index], F_SETFL, O_NONBLOCK);
        }
        return 0;
    }
    #ifdef __APPLE__
    #include <sys/event.h>
    #define RINGBLK_WATCHES_ANY 1
    static int ringblk_watch(pid_t pid) {
        struct kevent end;
        int ends[2], watch_fd = kqueue();
        if (watch_fd < 0)
            return -1;
        fcntl(watch_fd, F_SETFD, FD_CLOEXEC);
        EV_SET(&end, pid, EVFILT_PROC, EV_ADD | EV_ONESHOT, NOTE_EXIT, 0, NULL);
        if (kevent(watch_fd, &end, 1, NULL, 0, NULL) == 0)
            return watch_fd;
        close(watch_fd);
        if (errno != ESRCH || kill(pid, 0) < 0 || ringblk_pipe(ends) < 0)
            return -1;
        close(ends[1]);  /* it has ended, and waits to be reaped: the pipe is at its end */
        return ends[0];
    }
    #else
    #define RINGBLK_WATCHES_ANY 0
    #define RINGBLK_WATCH_LIMIT 4096
    /* Of the process that has the handler, which any of its threads may run. A pid of 0: the place is free. */
    static struct { pid_t pid; int told_fd; } ringblk_watched[RINGBLK_WATCH_LIMIT];
    static volatile int ringblk_watched_end;
    static volatile pid_t ringblk_watcher;
    static void ringblk_note_ends(int number) {
        int error = errno;
        (void)number;
        for (int index = 0; index < ringblk_watched_end && ringblk_watcher == getpid(); index++) {
            pid_t pid = __atomic_load_n(&ringblk_watched[index].pid, __ATOMIC_SEQ_CST);
            siginfo_t info;
            info.si_pid = 0;
            /* A child that somebody else has reaped has ended, too. */
            if (pid && (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) < 0 || info.si_pid)) {
                int told_fd = ringblk_watched[index].told_fd;
                if (__atomic_compare_exchange_n(&ringblk_watched[index].pid, &pid, 0, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
                    while (write(told_fd, "", 1) < 0 && errno == EINTR)
                        ;
                    close(told_fd);
                }
            }
        }
        errno = error;
    }
    static int ringblk_begin_watching(void) {
        struct sigaction action;
        if (ringblk_watcher == getpid())
            return 0;
        /* A parent's: the descriptors are closed here, or somebody else's by now. */
        memset(ringblk_watched, 0, sizeof ringblk_watched);
        ringblk_watched_end = 0;
        memset(&action, 0, sizeof action);
        action.sa_handler = ringblk_note_ends;
        action.sa_flags = SA_RESTART | SA_NOCLDSTOP;
        if (sigaction(SIGCHLD, &action, NULL) < 0)
            return -1;
        ringblk_watcher = getpid();
        return 0;
    }
    static int ringblk_watch(pid_t pid) {
        sigset_t held, former;
        siginfo_t info;
        int ends[2], place = 0, result = -1;
        if (ringblk_begin_watching() < 0 || waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) < 0)
            return -1;
        if (ringblk_pipe(ends) < 0)
            return -1;
        sigemptyset(&held);
        sigaddset(&held, SIGCHLD);
        pthread_sigmask(SIG_BLOCK, &held, &former);
        while (place < RINGBLK_WATCH_LIMIT && ringblk_watched[place].pid)
            place++;
        if (place < RINGBLK_WATCH_LIMIT) {
            ringblk_watched[place].told_fd = ends[1];
            __atomic_store_n(&ringblk_watched[place].pid, pid, __ATOMIC_SEQ_CST);  /* from now on it counts */
            if (place >= ringblk_watched_end)
                ringblk_watched_end = place + 1;
            ringblk_note_ends(SIGCHLD);  /* it may have ended before it stood here */
            result = ends[0];
        }
        pthread_sigmask(SIG_SETMASK, &former, NULL);
        if (result < 0) {
            close(ends[0]);
            close(ends[1]);
            errno = EMFILE;
        }
        return result;
    }
    #endif
    #endif
    """
    enum: RINGBLK_WATCHES_ANY
    int ringblk_watch(pid_t pid)
    int ringblk_send_signal(int watch_fd, pid_t pid, int number)
    int ringblk_open_child_news(sigset_t *former_mask)
    void ringblk_drain_child_news(int news_fd)
    int ringblk_copy_fd(int watch_fd, int fd)
    int ringblk_end_with_parent(int number)
    int ringblk_ends_with_parent()
    void ringblk_name_process(const char *name)

WATCHES_ANY = bool(RINGBLK_WATCHES_ANY)
"""Whether any process can be watched, not only a child of this one."""
HAS_ZYGOTE = bool(IS_LINUX)
"""Whether a child can hand its own children on: their watches, and their descriptors."""


cdef int watch(pid_t pid) noexcept nogil:
    cdef int watch_fd = ringblk_watch(pid)
    return -errno if watch_fd < 0 else watch_fd


cdef int send_signal(int watch_fd, pid_t pid, int number) noexcept nogil:
    return -errno if ringblk_send_signal(watch_fd, pid, number) < 0 else 0


cdef int outlive_parent() noexcept nogil:
    """Not end with it any more; 0, or a negative errno."""
    return 0 if ringblk_end_with_parent(0) == 0 else -errno


cdef int end_with_parent() noexcept nogil:
    return -errno if ringblk_end_with_parent(SIGKILL) < 0 else 0


cdef void name_process(const char *name) noexcept nogil:
    ringblk_name_process(name)


cdef int open_child_news(sigset_t *former_mask) noexcept nogil:
    cdef int news_fd = ringblk_open_child_news(former_mask)
    return -errno if news_fd < 0 else news_fd


cdef void drain_child_news(int news_fd) noexcept nogil:
    ringblk_drain_child_news(news_fd)


def watch_process(pid_t pid):
    """A descriptor that is readable once the process has ended; the caller closes it. Raises `OSError`.

    With `WATCHES_ANY` of any process, else of a child of this one.
    """
    cdef int watch_fd = watch(pid)
    if watch_fd < 0:
        raise OSError(-watch_fd, os.strerror(-watch_fd))
    return watch_fd


def signal_process(int watch_fd, pid_t pid, int number):
    """Send a signal to the process that is watched by this descriptor.

    Raises `OSError`: `ProcessLookupError` where it has ended.
    """
    cdef int result = send_signal(watch_fd, pid, number)
    if result < 0:
        raise OSError(-result, os.strerror(-result))


def copy_fd_of(int watch_fd, int fd):
    """A copy of a descriptor of another process, which is watched by `watch_fd`. Raises `OSError`."""
    cdef int copy = ringblk_copy_fd(watch_fd, fd)
    if copy < 0:
        raise OSError(errno, os.strerror(errno))
    return copy


def die_with_parent(parent_pid: int) -> bool:
    """Have the kernel kill this process when its parent ends; False when that has happened already.

    Where it cannot (any but Linux), a process ends when its channel closes.
    """
    end_with_parent()
    return os.getppid() == parent_pid


def dies_with_parent() -> bool:
    """Whether the kernel sends this process a signal when its parent ends."""
    return ringblk_ends_with_parent() != 0


def set_process_name(name: str) -> None:
    """Show this name (15 characters of it) in process listings, where the system has them changed."""
    ringblk_name_process(name.encode()[:15])
