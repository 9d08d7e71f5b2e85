"""Connections to NBD servers: the handshake, the transmission, and what a dead process still owes."""
