"""`ringblk drive`: the control API for people."""
