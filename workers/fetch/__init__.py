"""Bases that are fetched as they are read: what a drive's processes and the fetcher say to one another."""
