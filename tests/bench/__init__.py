"""Measurements: loads side by side with peers, what the engine costs at rest, and its parts by themselves."""
