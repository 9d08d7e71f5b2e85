"""File system requests: FUSE over virtio (virtio 1.2, 5.11)."""
