# cython: language_level=3
"""Which form of this room was compiled (form.pxd), for its modules in Python and for tests."""

LINUX = bool(IS_LINUX)
