"""JSON that people and programs write: whatever it is, what is wrong with it is one line."""

import msgspec


class NotJson(ValueError):  # noqa: N818
    """This is no JSON, or none that says one thing. Mend what the message names."""


def decode_json(text: bytes | str) -> object:
    """The value. Raises `NotJson`."""
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise NotJson(str(error)) from error
    except RecursionError as error:
        raise NotJson("it is nested too deeply") from error


def decode_json_once(text: bytes) -> object:
    """The same, where no object may have a key twice: of the two, nobody can tell which is meant."""
    value = decode_json(text)
    import json  # few files are read

    try:
        json.loads(text, object_pairs_hook=_unique)
    except RecursionError as error:
        raise NotJson("it is nested too deeply") from error
    return value


def _unique(pairs: list[tuple[str, object]]) -> None:
    keys: set[str] = set()
    for key, _ in pairs:
        if key in keys:
            raise NotJson(f"`{key}` stands twice in one object")
        keys.add(key)
