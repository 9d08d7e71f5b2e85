"""A layer of a copy-on-write drive: its files, its map, its journal."""
