"""Man pages and shell completion, made of the parsers."""
