OPERATION_NAMES: tuple[str, ...]
OPCODES: dict[str, int]
