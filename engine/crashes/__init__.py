"""Power failures of any program's files: recorded, and made."""
