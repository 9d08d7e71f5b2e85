"""What an engine is started with."""
