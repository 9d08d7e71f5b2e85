"""What the kernel says of itself in the files of /proc and /sys."""


def first_word(path: str) -> str:
    """The first word of such a file, a sysctl's for one; empty where there is none to be read."""
    try:
        with open(path) as file:
            return file.read().split()[0]
    except (OSError, IndexError):
        return ""
