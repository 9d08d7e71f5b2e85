"""Which version of ringblk this is."""

VERSION = "0.1.0"
"""Said here alone: pyproject.toml takes it from here. importlib.metadata would cost an engine 3.7 MiB."""
