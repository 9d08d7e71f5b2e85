"""Which blocks of a drive have changed: a map for backups."""
