"""Block requests: from chain to operation to outcome."""
