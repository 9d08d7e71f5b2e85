"""The programs: command line, one engine from start to end, claiming drives, taking over from another."""
