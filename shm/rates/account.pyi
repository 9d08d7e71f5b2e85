from ringblk.shm.rates.limit import RateLimit

AHEAD_S: int

class RateAccount:
    def __init__(self, limit: RateLimit, own_limit: RateLimit, is_shared: bool) -> None: ...
    def credit(self, name: str) -> int: ...
