"""What processes that share memory do to each other: order, sleep, wake, watch, send."""
