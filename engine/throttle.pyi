from ringblk.shm.rate_limit import RateLimit
from ringblk.shm.state import StateSegment

class Throttle:
    def __init__(self, state: StateSegment, limit: RateLimit, is_shared: bool) -> None: ...
