"""The front end: a virtio block driver for Python programs."""
