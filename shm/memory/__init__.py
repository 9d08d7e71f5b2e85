"""Guest memory: regions, translation of addresses, and what happens when a front end takes some away."""
