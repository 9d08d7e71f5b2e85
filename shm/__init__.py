"""The ground floor: segments, guest memory, virtqueues, worker rings, in-flight records."""
