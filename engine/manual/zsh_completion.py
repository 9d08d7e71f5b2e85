"""Completion for zsh: a function for each command, of _arguments' specifications (zshcompsys(1))."""

from collections.abc import Iterator, Sequence

from ringblk.engine.manual.command_tree import Argument, Command

_ACTIONS = {"nothing": " ", "words": " ", "files": "_files", "users": "_users"}


def zsh_completion(programs: Sequence[Command]) -> str:
    """The file that zsh reads."""
    names = " ".join(program.words[0] for program in programs)
    lines = [f"#compdef {names}", "# zsh completion, made from the options of these programs", ""]
    for program in programs:
        for command in program.walk():
            lines += [*_function(command), ""]
    lines += [
        "case $service in",
        *(f"{program.words[0]}) {_function_name(program)} ;;" for program in programs),
        "esac",
    ]
    return "\n".join(lines) + "\n"


def _function_name(command: Command) -> str:
    return "_ringblk_complete_" + "_".join(command.words).replace("-", "_")


def _function(command: Command) -> Iterator[str]:
    yield f"{_function_name(command)}() {{"
    if command.commands:
        yield "    local context state state_descr line"
        yield "    local -A opt_args"
        yield "    local -a commands=("
        yield from (f"        {_quoted(_described(each))}" for each in command.commands)
        yield "    )"
    yield f"    _arguments -s{' -C' if command.commands else ''} \\"
    for option in command.options:
        yield f"        {_option_specification(option)} \\"
    for argument in command.arguments:
        place = "*" if argument.is_repeated else ""
        colon = "::" if argument.is_optional and not place else ":"
        specification = f"{place}{colon}{_plain(argument.value)}:{_action(argument)}"
        yield f"        {_quoted(specification)} \\"
    if command.commands:
        yield "        '1:command:->command' '*::argument:->argument'"
        yield "    case $state in"
        yield "    command) _describe command commands ;;"
        yield "    argument)"
        yield "        case $line[1] in"
        for each in command.commands:
            yield f"        {each.words[-1]}) {_function_name(each)} ;;"
        yield "        esac ;;"
        yield "    esac"
    else:
        yield "        && return 0"
    yield "}"


def _option_specification(option: Argument) -> str:
    """With its names in braces where there are several: each excludes the others."""
    value = f":{_plain(option.value)}:{_action(option)}" if option.takes_value else ""
    explained = _quoted(f"[{_plain(option.help)}]{value}")
    names = [f"{name}=" if option.takes_value and name.startswith("--") else name for name in option.names]
    repeated = "\\*" if option.is_repeated else ""
    if len(names) == 1:
        return f"{repeated}{_quoted(names[0])}{explained}"
    excluded = "" if option.is_repeated else _quoted(f"({' '.join(option.names)})")
    return f"{excluded}{repeated}{{{','.join(names)}}}{explained}"


def _action(argument: Argument) -> str:
    return f"({' '.join(argument.words)})" if argument.words else _ACTIONS[argument.completes]


def _described(command: Command) -> str:
    return f"{command.words[-1]}:{_plain(command.summary)}"


def _plain(text: str) -> str:
    """Text within a specification, where these have a meaning."""
    return "".join(f"\\{character}" if character in "\\:[]" else character for character in text)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
