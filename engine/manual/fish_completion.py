"""Completion for fish: a line for each option (complete(1) of fish)."""

from collections.abc import Iterator, Sequence

from ringblk.engine.manual.command_tree import Argument, Command


def fish_completion(programs: Sequence[Command]) -> str:
    """The file that fish reads."""
    lines = ["# fish completion for ringblk and vhost-user-ringblk, made from their options"]
    for program in programs:
        lines.append(f"complete -c {program.words[0]} -f")
        for command in program.walk():
            lines += _lines(command)
    return "\n".join(lines) + "\n"


def _lines(command: Command) -> Iterator[str]:
    begin = f"complete -c {command.words[0]}{_condition(command)}"
    for each in command.commands:
        yield f"{begin} -a {each.words[-1]} -d {_quoted(each.summary)}"
    for option in command.options:
        names = "".join(
            f" -l {name[2:]}" if name.startswith("--") else f" -s {name[1:]}" for name in option.names
        )
        yield f"{begin}{names}{_value(option)} -d {_quoted(option.help)}"
    for argument in command.arguments:
        if argument.words:
            yield f"{begin} -a {_quoted(' '.join(argument.words))}"
        elif argument.completes == "files":
            yield f"{begin} -F"


def _condition(command: Command) -> str:
    """Where a command's own words may stand: behind those that lead to it, and before any below it."""
    if len(command.words) == 1 and not command.commands:
        return ""
    tests = [f"__fish_seen_subcommand_from {word}" for word in command.words[1:]]
    if command.commands:
        tests.append(
            f"not __fish_seen_subcommand_from {' '.join(each.words[-1] for each in command.commands)}"
        )
    return f" -n {_quoted('; and '.join(tests))}"


def _value(option: Argument) -> str:
    if not option.takes_value:
        return ""
    if option.words:
        return f" -x -a {_quoted(' '.join(option.words))}"
    if option.completes == "users":
        return " -x -a '(__fish_complete_users)'"
    return " -r -F" if option.completes == "files" else " -x"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
