from ringblk.shm.state.segment import StateSegment
from ringblk.workers.backends.asynchronous import AsyncForm
from ringblk.workers.requests.request import RequestExecutor

class DispatcherRing:
    def __init__(self, state: StateSegment, executor: RequestExecutor, form: AsyncForm | None) -> None: ...
