from ringblk.workers.fs.share import Share
from ringblk.workers.requests.request import RequestExecutor

class ShareExecutor(RequestExecutor):
    def __init__(self, share: Share) -> None: ...
