"""System calls on files and block devices."""
