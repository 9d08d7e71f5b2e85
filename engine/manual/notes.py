"""What pages say beside what the parsers know: by page, titles and paragraphs."""

SERVES = "serve"
"""The two pages of the program that serves."""

NOTES: dict[str, tuple[tuple[str, str], ...]] = {
    SERVES: (
        (
            "SIGNALS",
            """
SIGTERM, SIGINT and SIGHUP (not under nohup) end the engine once the requests in flight are done; a second
one ends it at once. SIGUSR2 does the same as the first, and leaves the drive to a successor.
""",
        ),
        (
            "ENVIRONMENT",
            """
NOTIFY_SOCKET: where the engine says that it is ready, what it does, and that it ends (sd_notify). An engine
with a list of drives has its sockets stored there (FDSTORE), and leaves it to the service manager to start it
again.

LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES: sockets that a service manager listens on (sd_listen_fds). The only
drive of an engine takes the one that there is, a drive of a list the one of its name. Those whose names begin
with ringblk/ come from the store: an engine with a list of drives goes on with them, another closes them.
""",
        ),
        (
            "FILES",
            """
/dev/shm/ringblk-engine-PID: the state of a running drive. What a killed engine leaves, the next one removes.

/dev/shm/ringblk-drive-*: what was changed while an engine ran, for the next engine of that drive.
""",
        ),
        (
            "EXAMPLES",
            """
    truncate -s 10G disk.img
    vhost-user-ringblk --socket-path=/run/disk.sock --blk-file=disk.img
""",
        ),
    ),
}
