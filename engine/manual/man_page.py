"""Man pages in the roff of man(7)."""

from collections.abc import Iterator

from ringblk.engine.base.exit_status import MEANINGS
from ringblk.engine.manual.command_tree import Argument, Command
from ringblk.engine.manual.notes import NOTES, SERVES

_SPECIAL = {"\\": "\\e", "-": "\\-", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti"}

_EVERYWHERE = ("--help", "--version")
"""Said once a page."""


def man_page(command: Command, version: str, others: list[str]) -> str:
    """One page: a command with all below it. `others` are the pages that it refers to."""
    lines = [
        f'.TH "{command.page.upper()}" "1" "" "ringblk {version}" "User Commands"',
        ".SH NAME",
        f"{escaped(command.page)} \\- {escaped(command.summary)}",
        ".SH SYNOPSIS",
    ]
    is_program = len(command.words) == 1  # whose commands have pages of their own
    below = [] if is_program else [each for each in command.walk() if each is not command]
    for number, each in enumerate([command, *below]):
        lines += [*([".br"] if number else []), *_synopsis(each)]
    lines += [".SH DESCRIPTION", escaped(_sentence(command.description or command.summary))]
    lines += [*_arguments(command, ".SH")]
    if is_program and command.commands:
        lines.append(".SH COMMANDS")
        for each in command.commands:
            lines += [".TP", f".BR {escaped(each.page)} (1)", escaped(_sentence(each.summary))]
    for each in below:
        lines += [f'.SH "{escaped(" ".join(each.words[1:]).upper())}"', escaped(_sentence(each.summary))]
        lines += [*_arguments(each, ".SS")]
    for title, text in NOTES.get(SERVES if _serves(command) else command.page, ()):
        lines += [f".SH {title}", *_paragraphs(text)]
    lines.append(".SH EXIT STATUS")
    for status, meaning in MEANINGS.items():
        lines += [".TP", f".B {int(status)}", escaped(meaning)]
    lines.append(".SH SEE ALSO")
    others = [page for page in others if page != command.page]
    lines += [f".BR {escaped(page)} (1){',' if page != others[-1] else ''}" for page in others]
    return "\n".join(lines) + "\n"


def _serves(command: Command) -> bool:
    return command.words[-1] in ("serve", "vhost-user-ringblk")


def _synopsis(command: Command) -> Iterator[str]:
    yield f".B {escaped(' '.join(command.words))}"
    if command.options:
        yield "[\\fIOPTION\\fR]..."
    if command.commands:
        yield "\\fICOMMAND\\fR ..."
    for argument in command.arguments:
        value = f"\\fI{escaped(argument.value)}\\fR" + ("..." if argument.is_repeated else "")
        yield f"[{value}]" if argument.is_optional else value


def _arguments(command: Command, heading: str) -> Iterator[str]:
    """What may stand on its command line."""
    described = [argument for argument in command.arguments if argument.help]
    if described:
        yield f"{heading} ARGUMENTS"
    for argument in described:
        yield from (".TP", f"\\fI{escaped(argument.value)}\\fR", escaped(_sentence(argument.help)))
    options = [
        option for option in command.options if heading == ".SH" or option.names[-1] not in _EVERYWHERE
    ]
    if options:
        yield f"{heading} OPTIONS"
    for option in options:
        yield from (".TP", _option_names(option), escaped(_sentence(option.help)))
        if option.completes == "words" and "|".join(option.words) != option.value:
            yield escaped(f"One of {', '.join(option.words)}.")


def _option_names(option: Argument) -> str:
    names = [f"\\fB{escaped(name)}\\fR" for name in option.names]
    value = f"=\\fI{escaped(option.value)}\\fR" if option.takes_value else ""
    return ", ".join(names) + value


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."


def _paragraphs(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(text.strip().split("\n\n")):
        if number:
            yield ".PP"
        if paragraph.startswith("    "):
            yield from (".EX", *(escaped(line) for line in paragraph.splitlines()), ".EE")
        else:
            yield from (escaped(line) for line in paragraph.splitlines())


def escaped(text: str) -> str:
    """Text as roff takes it for text: no line of it is a request."""
    line = "".join(_SPECIAL.get(character, character) for character in text)
    return f"\\&{line}" if line.startswith((".", "\\(aq")) else line
