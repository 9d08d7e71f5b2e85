"""The fetcher: a process that reads a source and fills the cache that drives on this host share."""
