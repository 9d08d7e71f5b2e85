# cython: language_level=3
"""Linux's calls that a sandbox is made of, as they are: 0 (or what the call gives) or a negative errno.

Where the kernel is another one, or the portable form is built, there are none: -ENOSYS. What such a system cannot
take from a process (capabilities, rights by exec) is no error; `Sandbox.missing` says that there is no sandbox.

Raw calls, because the libraries on PyPI cost too much here: pyseccomp runs ldconfig and a compiler to find
libseccomp (31 ms and 1.5 MiB of an engine's 150 ms and 30 MiB); landlock, a preview, takes 19 ms and knows
neither signals nor TCP. `sandbox.py` and `syscall_filter.py` say what these calls are used for.
"""

from libc.stdint cimport int32_t, uint32_t, uint64_t

from ringblk.shm.platform.form cimport IS_LINUX

cdef extern from * nogil:
    r"""
    #if RINGBLK_LINUX
    #include <errno.h>
    #include <linux/audit.h>
    #include <linux/capability.h>
    #include <linux/filter.h>
    #include <linux/seccomp.h>
    #include <linux/securebits.h>
    #include <signal.h>
    #include <stdint.h>
    #include <string.h>
    #include <sys/prctl.h>
    #include <sys/syscall.h>
    #include <ucontext.h>
    #include <unistd.h>

    #ifndef SYS_SECCOMP
    #define SYS_SECCOMP 1
    #endif
    /* Where a machine has no such call, or the headers are older than it. */
    #define RINGBLK_NO_CALL (-1)
    #ifndef __NR_clone3
    #define __NR_clone3 435
    #endif
    #ifndef __NR_close_range
    #define __NR_close_range 436
    #endif
    #ifndef __NR_openat2
    #define __NR_openat2 437
    #endif
    #ifndef __NR_pidfd_getfd
    #define __NR_pidfd_getfd 438
    #endif
    #ifndef __NR_faccessat2
    #define __NR_faccessat2 439
    #endif
    #ifndef __NR_epoll_pwait2
    #define __NR_epoll_pwait2 441
    #endif
    #ifndef __NR_landlock_create_ruleset
    #define __NR_landlock_create_ruleset 444
    #define __NR_landlock_add_rule 445
    #define __NR_landlock_restrict_self 446
    #endif
    #ifndef __NR_open  /* machines newer than these calls */
    #define __NR_open RINGBLK_NO_CALL
    #define __NR_stat RINGBLK_NO_CALL
    #define __NR_lstat RINGBLK_NO_CALL
    #define __NR_access RINGBLK_NO_CALL
    #define __NR_readlink RINGBLK_NO_CALL
    #define __NR_rename RINGBLK_NO_CALL
    #define __NR_mkdir RINGBLK_NO_CALL
    #define __NR_rmdir RINGBLK_NO_CALL
    #define __NR_unlink RINGBLK_NO_CALL
    #define __NR_poll RINGBLK_NO_CALL
    #define __NR_select RINGBLK_NO_CALL
    #define __NR_epoll_wait RINGBLK_NO_CALL
    #define __NR_dup2 RINGBLK_NO_CALL
    #define __NR_pipe RINGBLK_NO_CALL
    #define __NR_fork RINGBLK_NO_CALL
    #define __NR_vfork RINGBLK_NO_CALL
    #define __NR_time RINGBLK_NO_CALL
    #define __NR_creat RINGBLK_NO_CALL
    #define __NR_symlink RINGBLK_NO_CALL
    #define __NR_chmod RINGBLK_NO_CALL
    #define __NR_chown RINGBLK_NO_CALL
    #endif
    #ifndef __NR_renameat
    #define __NR_renameat RINGBLK_NO_CALL
    #endif
    #ifndef __NR_newfstatat
    #define __NR_newfstatat RINGBLK_NO_CALL
    #endif
    #ifndef __NR_fstat
    #define __NR_fstat RINGBLK_NO_CALL
    #endif

    #ifndef __NR_fchmodat2
    #define __NR_fchmodat2 452
    #endif
    #ifndef __NR_setxattrat
    #define __NR_setxattrat 463
    #define __NR_getxattrat 464
    #define __NR_listxattrat 465
    #define __NR_removexattrat 466
    #endif

    struct ringblk_call { const char *name; int number; };
    #define CALL(name) { #name, __NR_##name }
    static const struct ringblk_call ringblk_calls[] = {
        CALL(read), CALL(write), CALL(readv), CALL(writev), CALL(close), CALL(lseek), CALL(fstat),
        CALL(newfstatat), CALL(statx), CALL(mmap), CALL(mprotect), CALL(munmap), CALL(mremap), CALL(madvise),
        CALL(brk), CALL(futex), CALL(rt_sigaction), CALL(rt_sigprocmask), CALL(rt_sigreturn), CALL(sigaltstack),
        CALL(restart_syscall), CALL(getpid), CALL(gettid), CALL(getppid), CALL(clock_gettime),
        CALL(clock_getres), CALL(clock_nanosleep), CALL(nanosleep), CALL(gettimeofday), CALL(sched_yield),
        CALL(sched_getaffinity), CALL(sched_setaffinity), CALL(getrandom), CALL(ppoll), CALL(pselect6), CALL(recvmsg), CALL(sendmsg),
        CALL(dup), CALL(fcntl), CALL(exit), CALL(exit_group), CALL(kill), CALL(tgkill), CALL(rseq),
        CALL(set_robust_list), CALL(membarrier), CALL(getcpu), CALL(pread64), CALL(pwrite64), CALL(preadv),
        CALL(pwritev), CALL(preadv2), CALL(pwritev2), CALL(fdatasync), CALL(fsync), CALL(fallocate), CALL(ioctl),
        CALL(epoll_pwait), CALL(epoll_pwait2), CALL(epoll_ctl), CALL(epoll_create1), CALL(io_uring_enter),
        CALL(open), CALL(openat), CALL(openat2), CALL(stat), CALL(lstat), CALL(access), CALL(faccessat),
        CALL(faccessat2), CALL(readlink), CALL(readlinkat), CALL(getdents64), CALL(getcwd), CALL(rename),
        CALL(renameat), CALL(renameat2), CALL(mkdir), CALL(mkdirat), CALL(rmdir), CALL(unlink), CALL(unlinkat),
        CALL(symlinkat), CALL(linkat), CALL(ftruncate), CALL(truncate), CALL(fchmod), CALL(fchown),
        CALL(utimensat), CALL(flock), CALL(fstatfs), CALL(statfs), CALL(sync_file_range), CALL(fadvise64),
        CALL(readahead), CALL(sendfile), CALL(copy_file_range), CALL(splice), CALL(pipe2), CALL(dup3),
        CALL(dup2), CALL(pipe), CALL(eventfd2), CALL(memfd_create), CALL(timerfd_create), CALL(timerfd_settime),
        CALL(timerfd_gettime), CALL(poll), CALL(select), CALL(epoll_wait), CALL(time), CALL(times),
        CALL(getrusage), CALL(getuid), CALL(geteuid), CALL(getgid), CALL(getegid), CALL(getgroups),
        CALL(uname), CALL(sysinfo), CALL(prlimit64), CALL(umask), CALL(msync), CALL(mlock), CALL(munlock),
        CALL(mincore), CALL(sendto), CALL(recvfrom), CALL(sendmmsg), CALL(recvmmsg), CALL(shutdown),
        CALL(getsockopt), CALL(setsockopt), CALL(getsockname), CALL(getpeername), CALL(clone), CALL(clone3),
        CALL(prctl), CALL(sched_getparam), CALL(sched_getscheduler), CALL(close_range),
        CALL(open_by_handle_at), CALL(name_to_handle_at), CALL(fchmodat2), CALL(fsetxattr), CALL(fgetxattr), CALL(flistxattr),
        CALL(fremovexattr), CALL(setxattrat), CALL(getxattrat), CALL(listxattrat), CALL(removexattrat), CALL(syncfs),
        CALL(setfsuid), CALL(setfsgid), CALL(capget),
        /* Allowed to nobody; here to be called by their names in a log line. */
        CALL(socket), CALL(socketpair), CALL(connect), CALL(bind), CALL(listen), CALL(accept), CALL(accept4),
        CALL(execve), CALL(execveat), CALL(fork), CALL(vfork), CALL(ptrace), CALL(process_vm_readv),
        CALL(process_vm_writev), CALL(pidfd_open), CALL(pidfd_getfd), CALL(pidfd_send_signal), CALL(setuid), CALL(setgid),
        CALL(setresuid), CALL(setresgid), CALL(setgroups), CALL(capset), CALL(mount), CALL(umount2),
        CALL(unshare), CALL(setns), CALL(chroot), CALL(chdir), CALL(creat), CALL(symlink), CALL(chmod),
        CALL(chown), CALL(fchmodat), CALL(fchownat), CALL(io_uring_setup), CALL(io_uring_register), CALL(bpf),
        CALL(perf_event_open), CALL(userfaultfd), CALL(keyctl), CALL(add_key), CALL(tkill), CALL(seccomp),
        CALL(wait4), CALL(waitid), CALL(setpriority), CALL(inotify_init1),
        CALL(signalfd4), CALL(shmget), CALL(mknodat), CALL(landlock_create_ruleset),
    };
    #define RINGBLK_CALL_COUNT ((int)(sizeof ringblk_calls / sizeof *ringblk_calls))

    #if defined(__x86_64__)
    #define RINGBLK_AUDIT_ARCH AUDIT_ARCH_X86_64
    #define RINGBLK_RESULT(context) ((context)->uc_mcontext.gregs[REG_RAX])
    #elif defined(__aarch64__)
    #define RINGBLK_AUDIT_ARCH AUDIT_ARCH_AARCH64
    #define RINGBLK_RESULT(context) ((context)->uc_mcontext.regs[0])
    #else
    #define RINGBLK_AUDIT_ARCH 0
    static long ringblk_result;
    #define RINGBLK_RESULT(context) ringblk_result
    #endif

    /* Written by the handler of SIGSYS, in the thread that made the call. A call is noted once. */
    #define RINGBLK_CALL_LIMIT 1024
    #define RINGBLK_NOTE_LIMIT 64
    static uint8_t ringblk_is_noted[RINGBLK_CALL_LIMIT];
    static int ringblk_noted[RINGBLK_NOTE_LIMIT];
    static uint32_t ringblk_note_count;

    /* The filter stopped a call: note which, and have it return -EPERM. */
    static void ringblk_refuse(int number, siginfo_t *info, void *context) {
        unsigned call = (unsigned)info->si_syscall;
        (void)number;
        if (info->si_code != SYS_SECCOMP)
            return;
        if (call < RINGBLK_CALL_LIMIT && !__atomic_exchange_n(&ringblk_is_noted[call], 1, __ATOMIC_SEQ_CST)) {
            uint32_t place = __atomic_fetch_add(&ringblk_note_count, 1, __ATOMIC_SEQ_CST);
            if (place < RINGBLK_NOTE_LIMIT)
                ringblk_noted[place] = (int)call;
        }
        RINGBLK_RESULT((ucontext_t *)context) = -EPERM;
    }

    static int ringblk_catch_refusals(void) {
        struct sigaction action;
        memset(&action, 0, sizeof action);
        action.sa_sigaction = ringblk_refuse;
        action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_RESTART;
        return sigaction(SIGSYS, &action, NULL) < 0 ? -errno : 0;
    }

    /* SPEC_ALLOW: older kernels slow every filtered process down against speculation by code that it runs for
       others; no guest's code runs here. */
    static int ringblk_load_filter(const void *program, size_t size_bytes) {
        struct sock_fprog filter = { (unsigned short)(size_bytes / sizeof(struct sock_filter)),
                                     (struct sock_filter *)program };
        long result = syscall(__NR_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, &filter);
        return result < 0 ? -errno : 0;
    }

    static int ringblk_seccomp_problem(void) {
        uint32_t action = SECCOMP_RET_TRAP;
        if (RINGBLK_AUDIT_ARCH == 0)
            return -ENOSYS;
        return syscall(__NR_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) < 0 ? -errno : 0;
    }

    static void ringblk_drop_bounding_set(void) {
        for (int capability = 0; prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0; capability++)
            prctl(PR_CAPBSET_DROP, capability, 0, 0, 0);
    }

    static int ringblk_drop_capabilities(uint64_t kept) {
        struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
        struct __user_cap_data_struct data[2];
        memset(data, 0, sizeof data);
        prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
        if (kept && syscall(__NR_capget, &header, data) < 0)
            return -errno;
        for (int word = 0; word < 2; word++) {
            data[word].permitted &= (uint32_t)(kept >> 32 * word);
            data[word].effective = data[word].permitted;
            data[word].inheritable = 0;
        }
        return syscall(__NR_capset, &header, data) < 0 ? -errno : 0;
    }
    static int ringblk_keep_capabilities(void) {
        int bits = prctl(PR_GET_SECUREBITS);
        if (bits < 0 || bits & SECBIT_NO_SETUID_FIXUP)
            return bits < 0 ? -errno : 0;
        return prctl(PR_SET_SECUREBITS, bits | SECBIT_NO_SETUID_FIXUP) < 0 ? -errno : 0;
    }

    static int ringblk_landlock_create(const void *attributes, size_t size_bytes, uint32_t flags) {
        long result = syscall(__NR_landlock_create_ruleset, attributes, size_bytes, flags);
        return result < 0 ? -errno : (int)result;
    }

    static int ringblk_landlock_allow(int ruleset_fd, int kind, const void *rule) {
        return syscall(__NR_landlock_add_rule, ruleset_fd, kind, rule, 0) < 0 ? -errno : 0;
    }

    static int ringblk_landlock_enter(int ruleset_fd) {
        return syscall(__NR_landlock_restrict_self, ruleset_fd, 0) < 0 ? -errno : 0;
    }

    static int ringblk_enter_root(int folder_fd) {
        if (fchdir(folder_fd) < 0 || chroot(".") < 0)
            return -errno;
        return ringblk_drop_capabilities(~(UINT64_C(1) << CAP_SYS_CHROOT));
    }
    static int ringblk_set_no_new_privs(void) { return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ? -errno : 0; }
    static int ringblk_parent_death_signal(void) { int number = 0; prctl(PR_GET_PDEATHSIG, &number); return number; }
    static int ringblk_set_parent_death_signal(int number) { return prctl(PR_SET_PDEATHSIG, number) < 0 ? -errno : 0; }
    #else
    #include <errno.h>
    #include <stdint.h>
    struct ringblk_call { const char *name; int number; };
    static const struct ringblk_call ringblk_calls[1];
    #define RINGBLK_CALL_COUNT 0
    #define RINGBLK_AUDIT_ARCH 0
    #define RINGBLK_NOTE_LIMIT 0
    static int ringblk_noted[1];
    static uint32_t ringblk_note_count;
    static int ringblk_catch_refusals(void) { return -ENOSYS; }
    static int ringblk_load_filter(const void *program, size_t size_bytes) { (void)program; (void)size_bytes; return -ENOSYS; }
    static int ringblk_seccomp_problem(void) { return -ENOSYS; }
    static void ringblk_drop_bounding_set(void) {}
    static int ringblk_drop_capabilities(uint64_t kept) { (void)kept; return 0; }  /* there are none */
    static int ringblk_keep_capabilities(void) { return 0; }
    static int ringblk_enter_root(int folder_fd) { (void)folder_fd; return -ENOSYS; }
    static int ringblk_landlock_create(const void *attributes, size_t size_bytes, uint32_t flags)
        { (void)attributes; (void)size_bytes; (void)flags; return -ENOSYS; }
    static int ringblk_landlock_allow(int ruleset_fd, int kind, const void *rule)
        { (void)ruleset_fd; (void)kind; (void)rule; return -ENOSYS; }
    static int ringblk_landlock_enter(int ruleset_fd) { (void)ruleset_fd; return -ENOSYS; }
    static int ringblk_set_no_new_privs(void) { return 0; }
    static int ringblk_parent_death_signal(void) { return 0; }
    static int ringblk_set_parent_death_signal(int number) { (void)number; return -ENOSYS; }
    #endif
    """
    struct ringblk_call:
        const char *name
        int number
    const ringblk_call *ringblk_calls
    int RINGBLK_CALL_COUNT
    uint32_t RINGBLK_AUDIT_ARCH
    uint32_t RINGBLK_NOTE_LIMIT
    int32_t *ringblk_noted
    uint32_t ringblk_note_count
    int ringblk_catch_refusals()
    int ringblk_load_filter(const void *program, size_t size_bytes)
    int ringblk_seccomp_problem()
    void ringblk_drop_bounding_set()
    int ringblk_drop_capabilities(uint64_t kept)
    int ringblk_keep_capabilities()
    int ringblk_enter_root(int folder_fd)
    int ringblk_landlock_create(const void *attributes, size_t size_bytes, uint32_t flags)
    int ringblk_landlock_allow(int ruleset_fd, int kind, const void *rule)
    int ringblk_landlock_enter(int ruleset_fd)
    int ringblk_set_no_new_privs()
    int ringblk_parent_death_signal()
    int ringblk_set_parent_death_signal(int number)

cdef enum:
    LANDLOCK_CREATE_RULESET_VERSION = 1

AUDIT_ARCH = RINGBLK_AUDIT_ARCH

cdef uint32_t taken_count = 0


def call_numbers():
    """The numbers of the system calls that this file knows by name, where the machine has them."""
    return {ringblk_calls[index].name.decode(): ringblk_calls[index].number
            for index in range(RINGBLK_CALL_COUNT) if ringblk_calls[index].number >= 0}


def set_no_new_privs():
    """No exec gives this process or its children more rights than it has (prctl(2))."""
    return ringblk_set_no_new_privs()


def drop_bounding_set():
    """No exec gives this process a capability, where it may still decide that: before it is another user."""
    ringblk_drop_bounding_set()


def drop_capabilities(uint64_t kept=0):
    """Give up all capabilities but these (a bit each): effective, permitted, inheritable and ambient."""
    return ringblk_drop_capabilities(kept)


def enter_root(int folder_fd):
    """Have this folder for root and working directory, and give up the right to have another (chroot(2))."""
    return ringblk_enter_root(folder_fd)


def keep_capabilities():
    """Have no change of user take capabilities from now on (capabilities(7), SECBIT_NO_SETUID_FIXUP)."""
    return ringblk_keep_capabilities()


def parent_death_signal():
    """The signal that this process gets when its parent ends; a change of user clears it."""
    return ringblk_parent_death_signal()


def set_parent_death_signal(int number):
    """Have the kernel send this signal when the parent ends; 0: none."""
    return ringblk_set_parent_death_signal(number)


def landlock_version():
    """The version of Landlock's interface that this kernel has (landlock_create_ruleset(2))."""
    return ringblk_landlock_create(NULL, 0, LANDLOCK_CREATE_RULESET_VERSION)


def landlock_create(bytes attributes):
    """A rule set that handles what `struct landlock_ruleset_attr` says; its descriptor."""
    return ringblk_landlock_create(<const char *>attributes, len(attributes), 0)


def landlock_allow(int ruleset_fd, int kind, bytes rule):
    """Add what a `struct landlock_path_beneath_attr` (kind 1) or `landlock_net_port_attr` (2) allows."""
    return ringblk_landlock_allow(ruleset_fd, kind, <const char *>rule)


def landlock_enter(int ruleset_fd):
    """Hold this thread, and what it starts, to the rule set."""
    return ringblk_landlock_enter(ruleset_fd)


def seccomp_problem():
    """0 where filters can be had, for this processor and with the actions that are used."""
    return ringblk_seccomp_problem()


def load_filter(bytes program):
    """Hold this thread, and what it starts, to a program of `struct sock_filter`.

    A call that the program answers with SECCOMP_RET_TRAP fails with EPERM, and `take_refused` tells of it.
    """
    cdef int result = ringblk_catch_refusals()
    return result or ringblk_load_filter(<const char *>program, len(program))


def take_refused():
    """The numbers of the system calls that were refused and not taken yet, each of them once."""
    global taken_count
    cdef uint32_t count = min(ringblk_note_count, RINGBLK_NOTE_LIMIT)
    numbers = [ringblk_noted[index] for index in range(taken_count, count)]
    taken_count = count
    return numbers
