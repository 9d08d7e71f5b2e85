"""Completion for bash: one function for both programs, with a table of their words."""

import shlex
from collections.abc import Iterator, Sequence

from ringblk.engine.manual.command_tree import Argument, Command

_HEAD = """\
# bash completion for ringblk and vhost-user-ringblk, made from their options

# What may follow a command: its commands, then its options (those that take a value with = behind).
_ringblk_words() {
    case $1 in
"""

_VALUES_HEAD = """\
    esac
}

# What may be the value of an option (a command and the option), or what stands alone (the command).
_ringblk_values() {
    case $1 in
"""

_TAIL = """\
    esac
}

_ringblk() {
    local command=${COMP_WORDS[0]##*/} current=${COMP_WORDS[COMP_CWORD]} option='' word kinds
    # bash cuts --option=value into three words.
    if [[ $current == = ]]; then
        option=${COMP_WORDS[COMP_CWORD-1]} current=''
    elif ((COMP_CWORD > 1)); then
        option=${COMP_WORDS[COMP_CWORD-1]}
        [[ $option == = ]] && option=${COMP_WORDS[COMP_CWORD-2]}
    fi
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        case " $(_ringblk_words "$command") " in
        *" $word "*) [[ $word == -* ]] || command+=" $word" ;;
        esac
    done
    COMPREPLY=()
    kinds=
    [[ $option == -* ]] && kinds=$(_ringblk_values "$command $option")
    if [[ -z $kinds && $current == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$(_ringblk_words "$command")" -- "$current")
        [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace 2>/dev/null
        return 0
    fi
    [[ -z $kinds ]] && kinds=$(_ringblk_values "$command")
    case $kinds in
    files)
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
        ;;
    users) mapfile -t COMPREPLY < <(compgen -u -- "$current") ;;
    nothing) ;;
    *) mapfile -t COMPREPLY < <(compgen -W "$kinds" -- "$current") ;;
    esac
    return 0
}

"""


def bash_completion(programs: Sequence[Command]) -> str:
    """The file that bash reads."""
    commands = [command for program in programs for command in program.walk()]
    lines = [_HEAD]
    for command in commands:
        words = " ".join([*(each.words[-1] for each in command.commands), *_option_words(command)])
        lines.append(_case(" ".join(command.words), words))
    lines.append(_VALUES_HEAD)
    for command in commands:
        place = " ".join(command.words)
        lines += [_case(f"{place} {name}", kind) for name, kind in _option_values(command)]
        lines.append(_case(place, _own_values(command)))
    lines.append(_TAIL)
    lines += [f"complete -F _ringblk {program.words[0]}\n" for program in programs]
    return "".join(lines)


def _case(place: str, said: str) -> str:
    return f"    {shlex.quote(place)}) echo {shlex.quote(said)} ;;\n"


def _option_words(command: Command) -> Iterator[str]:
    for option in command.options:
        for name in option.names:
            yield f"{name}=" if option.takes_value and name.startswith("--") else name


def _option_values(command: Command) -> Iterator[tuple[str, str]]:
    for option in command.options:
        if option.takes_value:
            yield from ((name, _kind(option)) for name in option.names)


def _own_values(command: Command) -> str:
    if command.commands:
        return " ".join(each.words[-1] for each in command.commands)
    kinds = [_kind(argument) for argument in command.arguments]
    return next((kind for kind in kinds if kind != "nothing"), "nothing")


def _kind(argument: Argument) -> str:
    """The words themselves, or how the shell is to find them."""
    return " ".join(argument.words) or argument.completes
