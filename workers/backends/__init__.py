"""Where a drive's bytes are kept."""
