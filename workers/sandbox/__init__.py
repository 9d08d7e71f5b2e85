"""What child processes may do."""
