# Waiting for several descriptors, each of which has a tag by which its news are told.
#
# Linux has epoll(7), edge-triggered: each write is an event, and nothing needs to be read back. The portable form is
# poll(2): what was written is read where that is nobody else's business (WAIT_WAKEUP), and an end that is closed is told
# of once. A set is of one thread.

from libc.stdint cimport uint64_t

from ringblk.shm.platform.form cimport IS_LINUX

cdef extern from * nogil:
    """
    #include <errno.h>
    #include <poll.h>
    #include <stdint.h>
    #include <string.h>
    #include <time.h>
    #include <unistd.h>
    #define RINGBLK_WAIT_LIMIT 72
    enum ringblk_wait { RINGBLK_WAIT_WAKEUP, RINGBLK_WAIT_READABLE, RINGBLK_WAIT_HANG_UP };
    #if RINGBLK_LINUX
    #include <sys/epoll.h>
    #include <sys/syscall.h>
    struct ringblk_wait_set { int epoll_fd; };
    static inline int ringblk_wait_open(struct ringblk_wait_set *set) {
        set->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
        return set->epoll_fd < 0 ? -errno : 0;
    }
    static inline void ringblk_wait_close(struct ringblk_wait_set *set) {
        if (set->epoll_fd >= 0)
            close(set->epoll_fd);
    }
    /* One that is waited for is waited for otherwise. */
    static inline int ringblk_wait_add(struct ringblk_wait_set *set, int fd, enum ringblk_wait what, uint64_t tag) {
        struct epoll_event event;
        event.events = (what == RINGBLK_WAIT_HANG_UP ? (uint32_t)EPOLLRDHUP : (uint32_t)EPOLLIN) | (uint32_t)EPOLLET;
        event.data.u64 = tag;
        if (epoll_ctl(set->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0 && epoll_ctl(set->epoll_fd, EPOLL_CTL_MOD, fd, &event) < 0)
            return -errno;
        return 0;
    }
    static inline void ringblk_wait_remove(struct ringblk_wait_set *set, int fd) {
        epoll_ctl(set->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
    }
    static inline void ringblk_wait_tidy(struct ringblk_wait_set *set) { (void)set; }
    static inline int ringblk_wait(struct ringblk_wait_set *set, uint64_t *tags, uint64_t timeout_ns) {
        struct epoll_event events[RINGBLK_WAIT_LIMIT];
        struct timespec timeout = { (time_t)(timeout_ns / 1000000000u), (long)(timeout_ns % 1000000000u) };
        /* glibc has a function for it only from 2.35 on. */
        int count = (int)syscall(SYS_epoll_pwait2, set->epoll_fd, events, RINGBLK_WAIT_LIMIT,
                                 timeout_ns == UINT64_MAX ? NULL : &timeout, NULL, (size_t)0);
        for (int index = 0; index < count; index++)
            tags[index] = events[index].data.u64;
        return count < 0 ? 0 : count;
    }
    #else
    struct ringblk_wait_set {
        int count;
        struct pollfd polled[RINGBLK_WAIT_LIMIT];
        enum ringblk_wait what[RINGBLK_WAIT_LIMIT];
        uint64_t tags[RINGBLK_WAIT_LIMIT];
    };
    static inline int ringblk_wait_open(struct ringblk_wait_set *set) { set->count = 0; return 0; }
    static inline void ringblk_wait_close(struct ringblk_wait_set *set) { (void)set; }
    static inline int ringblk_wait_place(const struct ringblk_wait_set *set, int fd) {
        int place = 0;
        while (place < set->count && set->polled[place].fd != fd)
            place++;
        return place;
    }
    static inline int ringblk_wait_add(struct ringblk_wait_set *set, int fd, enum ringblk_wait what, uint64_t tag) {
        int place = ringblk_wait_place(set, fd);
        struct pollfd polled = { fd, what == RINGBLK_WAIT_HANG_UP ? 0 : POLLIN, 0 };
        if (fd < 0)
            return -EBADF;
        if (place == RINGBLK_WAIT_LIMIT)
            return -ENOSPC;
        if (place == set->count)
            set->count++;
        set->polled[place] = polled;
        set->what[place] = what;
        set->tags[place] = tag;
        return 0;
    }
    static inline void ringblk_wait_remove(struct ringblk_wait_set *set, int fd) {
        int place = ringblk_wait_place(set, fd);
        if (place == set->count)
            return;
        set->count--;
        set->polled[place] = set->polled[set->count];
        set->what[place] = set->what[set->count];
        set->tags[place] = set->tags[set->count];
    }
    static inline int ringblk_wait(struct ringblk_wait_set *set, uint64_t *tags, uint64_t timeout_ns) {
        uint64_t written[64];
        int count = 0, timeout_ms = -1;
        if (timeout_ns != UINT64_MAX)  /* rounded up, so that the time is over then; at most a day */
            timeout_ms = timeout_ns < 86400000000000u ? (int)((timeout_ns + 999999u) / 1000000u) : 86400000;
        if (poll(set->polled, (nfds_t)set->count, timeout_ms) <= 0)
            return 0;
        for (int place = set->count - 1; place >= 0; place--) {  /* from the end: a removal moves the last one */
            short revents = set->polled[place].revents;
            if (!revents)
                continue;
            tags[count++] = set->tags[place];
            if (set->what[place] == RINGBLK_WAIT_WAKEUP && revents & POLLIN) {
                if (read(set->polled[place].fd, written, sizeof written) == 0)  /* a pipe that nobody can write to */
                    ringblk_wait_remove(set, set->polled[place].fd);
            } else if (set->what[place] != RINGBLK_WAIT_READABLE || revents & POLLNVAL)
                ringblk_wait_remove(set, set->polled[place].fd);
        }
        return count;
    }
    /* For who is too busy to wait: what is written to meanwhile must not become full. */
    static inline void ringblk_wait_tidy(struct ringblk_wait_set *set) {
        uint64_t written[64];
        for (int place = 0; place < set->count; place++) {
            struct pollfd polled = set->polled[place];
            if (set->what[place] == RINGBLK_WAIT_WAKEUP && poll(&polled, 1, 0) > 0 && polled.revents & POLLIN
                && read(polled.fd, written, sizeof written) < 0 && errno != EAGAIN && errno != EINTR)
                break;
        }
    }
    #endif
    """
    enum:
        WAIT_LIMIT "RINGBLK_WAIT_LIMIT"     # of descriptors in a set
    enum WaitFor "ringblk_wait":
        WAIT_WAKEUP "RINGBLK_WAIT_WAKEUP"       # it is written; nobody reads it
        WAIT_READABLE "RINGBLK_WAIT_READABLE"   # there is something to be read, which somebody then reads
        WAIT_HANG_UP "RINGBLK_WAIT_HANG_UP"     # the other end is closed
    struct WaitSet "ringblk_wait_set":
        pass
    int open_wait_set "ringblk_wait_open"(WaitSet *waited)            # 0 or a negative errno
    void close_wait_set "ringblk_wait_close"(WaitSet *waited)         # also where it could not be opened
    int add_wait "ringblk_wait_add"(WaitSet *waited, int fd, WaitFor what, uint64_t tag)   # 0 or a negative errno
    void remove_wait "ringblk_wait_remove"(WaitSet *waited, int fd)
    int wait_for_any "ringblk_wait"(WaitSet *waited, uint64_t *tags, uint64_t timeout_ns)  # how many tags; the largest timeout: none
    void tidy_wait_set "ringblk_wait_tidy"(WaitSet *waited)           # now and then, where nobody waits for long
