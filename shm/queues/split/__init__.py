"""The split virtqueue (virtio 1.2, 2.7): three rings in guest memory, and its in-flight record."""
