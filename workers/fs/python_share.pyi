from ringblk.workers.fs.share import Share

class PythonShare:
    def __init__(self, share: Share, file_system: object) -> None: ...
