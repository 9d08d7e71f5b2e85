"""Token buckets, alone and as a drive's limits or a group's, in shared memory."""
