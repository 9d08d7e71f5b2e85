"""Called from compiled code alone."""
