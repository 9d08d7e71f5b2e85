from ringblk.workers.fs.inode_table import InodeTable

class NamelessInodes:
    def __init__(self, table: InodeTable, put_fd: int, take_fd: int) -> None: ...
