"""The state segment: all that the processes of one engine share but guest memory."""
