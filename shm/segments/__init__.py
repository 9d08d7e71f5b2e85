"""Named pieces of shared memory: segments of a running process, records that outlive it."""
