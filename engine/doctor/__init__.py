"""What this host can do for a drive, and why not."""
