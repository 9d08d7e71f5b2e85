"""Virtqueues, as a device and as a driver see them, and the record of what is in flight on one."""
