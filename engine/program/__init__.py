"""The programs: command line, one engine from start to end, taking over from another."""
