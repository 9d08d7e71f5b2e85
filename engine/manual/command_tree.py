"""The commands of a program with their options, read from its parser."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args, get_origin

import msgspec

from ringblk.engine.options.command_line import option_fields

Completes = Literal["nothing", "words", "files", "users"]

_PATH_OPTIONS = {
    "socket_path",
    "blk_file",
    "track_changes",
    "base",
    "overlay",
    "control",
    "sandbox_allow",
    "cgroup",
}
_PATH_WORDS = {"FILE", "PATH"}
_PATH_ARGUMENTS = {"image", "source", "target", "path", "engine", "folder", "record", "program"}
_FEW_CHARACTERS = 50
_BACKENDS = ("memory", "null")


class Argument(msgspec.Struct, frozen=True, kw_only=True):
    """An option, or (without names) what stands at a place of its own."""

    names: tuple[str, ...] = ()
    value: str = ""
    """What stands for its value; empty: it takes none."""
    help: str
    words: tuple[str, ...] = ()
    """The values that there are, or some of them."""
    completes: Completes = "nothing"
    is_repeated: bool = False
    is_optional: bool = False

    @property
    def takes_value(self) -> bool:
        """Whether something is to follow it."""
        return bool(self.value)


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """A program or one of its commands."""

    words: tuple[str, ...]
    """As it is typed: `("ringblk", "image", "create")`."""
    summary: str
    description: str
    options: tuple[Argument, ...]
    arguments: tuple[Argument, ...]
    commands: tuple["Command", ...]

    @property
    def page(self) -> str:
        """The name of its man page: `ringblk-image`."""
        return "-".join(self.words)

    def walk(self) -> Iterator["Command"]:
        """Itself and all below."""
        yield self
        for command in self.commands:
            yield from command.walk()


def command_of(parser: argparse.ArgumentParser, words: tuple[str, ...], summary: str) -> Command:
    """Read a parser. argparse has no other way to its actions than by their names of its own."""
    options, arguments, commands = [], [], []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            summaries = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, below in action.choices.items():
                commands.append(command_of(below, (*words, name), summaries.get(name, "")))
        elif action.option_strings:
            options.append(_argument(action))
        else:
            arguments.append(_argument(action))
    return Command(
        words=words,
        summary=summary,
        description=" ".join((parser.description or "").split()),
        options=tuple(options),
        arguments=tuple(arguments),
        commands=tuple(commands),
    )


def _argument(action: argparse.Action) -> Argument:
    words, completes = _values(action)
    metavar = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    return Argument(
        names=tuple(action.option_strings),
        value="" if action.nargs == 0 else _value(metavar, words if completes == "words" else ()),
        help=" ".join((action.help or "").split()),
        words=words,
        completes=completes,
        is_repeated=action.nargs in ("*", "+") or isinstance(action, argparse._AppendAction),
        is_optional=action.nargs in ("?", "*"),
    )


def _value(metavar: str, words: tuple[str, ...]) -> str:
    """The words, where they are few."""
    said = "|".join(words)
    return said if said and len(said) <= _FEW_CHARACTERS else metavar


def _values(action: argparse.Action) -> tuple[tuple[str, ...], Completes]:
    """Which values an argument may have, and how a shell is to help with them."""
    if action.nargs == 0:
        return (), "nothing"
    if action.choices is not None:
        return tuple(str(choice) for choice in action.choices), "words"
    if not action.option_strings:
        return (), "files" if action.dest in _PATH_ARGUMENTS else "nothing"
    engine_values = {field.name: field.type for field in option_fields()}.get(action.dest)
    if get_origin(engine_values) is Literal:
        return tuple(get_args(engine_values)), "words"
    if action.dest == "backend":
        return _BACKENDS, "nothing"  # or a class of one's own
    if action.dest == "user":
        return (), "users"
    is_path = action.dest in _PATH_OPTIONS or action.metavar in _PATH_WORDS or action.type is Path
    return (), "files" if is_path else "nothing"
