"""One io_uring."""
