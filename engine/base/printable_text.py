"""Text of others, such as a file's name, as it may stand in a line for a terminal."""


def printable(text: str) -> str:
    """The text with Python's escapes in place of line ends, controls and what is no text at all.

    So it cannot begin a line, colour it, turn its direction, or fail to be encoded (a lone surrogate stands
    for a byte that is not UTF-8: PEP 383).
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


def utf8_text(text: str) -> str:
    """The text with U+FFFD in place of each byte that is not UTF-8, for what must be UTF-8, such as JSON."""
    return text.encode(errors="surrogateescape").decode(errors="replace")
