from ringblk.workers.fs.share import Share
from ringblk.workers.fs.share_executor import ShareExecutor

class PythonExecutor(ShareExecutor):
    def __init__(self, share: Share, file_system: object) -> None: ...

def worker_opcodes(file_system: object) -> int: ...
