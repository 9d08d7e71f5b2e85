"""What is of one operating system, behind names that every system can give (docs/portability.md)."""
