"""What stress has done so far, for who wants to tell: requests, rules, examples, kills, faults."""

from collections import Counter

counts: Counter[str] = Counter()
