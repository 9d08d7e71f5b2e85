DIO_ALIGN: int
BIRTH_TIME: int

def read_statx(fd: int, mask: int) -> tuple[int, int] | None: ...
