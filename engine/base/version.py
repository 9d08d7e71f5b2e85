"""Which version of ringblk this is."""

from importlib.metadata import version


def package_version() -> str:
    """The installed package's version."""
    return version("ringblk")
