"""Feature bits of every kind of device, as masks (virtio 1.2, 6)."""

F_INDIRECT_DESC = 1 << 28
F_EVENT_IDX = 1 << 29
F_VERSION_1 = 1 << 32
