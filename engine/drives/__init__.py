"""One drive: what it is made of, how it is served, set and limited, what it leaves to the next engine."""
