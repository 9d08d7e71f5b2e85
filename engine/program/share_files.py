"""What is installed below share/: man pages and completion, made when a wheel is.

`python -m ringblk.engine.program.share_files FOLDER` makes them.
"""

import sys
from pathlib import Path

import msgspec

from ringblk.engine.base.version import VERSION
from ringblk.engine.manual.bash_completion import bash_completion
from ringblk.engine.manual.command_tree import Command, command_of
from ringblk.engine.manual.fish_completion import fish_completion
from ringblk.engine.manual.man_page import man_page
from ringblk.engine.manual.zsh_completion import zsh_completion
from ringblk.engine.program.parsers import (
    BACKEND_PROGRAM,
    PROGRAM,
    SERVE,
    SERVE_SUMMARY,
    make_parser,
    make_serve_parser,
)

_COMPLETIONS = {"bash": bash_completion, "zsh": zsh_completion, "fish": fish_completion}
_PLACES = {
    "bash": [f"bash-completion/completions/{program}" for program in (PROGRAM, BACKEND_PROGRAM)],
    "zsh": [f"zsh/site-functions/_{PROGRAM}"],
    "fish": [f"fish/vendor_completions.d/{program}.fish" for program in (PROGRAM, BACKEND_PROGRAM)],
}


def all_commands() -> list[Command]:
    """Both programs."""
    serve = command_of(make_serve_parser(f"{PROGRAM} {SERVE}"), (PROGRAM, SERVE), SERVE_SUMMARY)
    ringblk = command_of(make_parser(), (PROGRAM,), "a virtio block backend")
    commands = tuple(serve if command.words == serve.words else command for command in ringblk.commands)
    backend = msgspec.structs.replace(serve, words=(BACKEND_PROGRAM,))
    return [msgspec.structs.replace(ringblk, commands=commands), backend]


def completion_text(shell: str) -> str:
    """What this shell reads."""
    return _COMPLETIONS[shell](all_commands())


def pages() -> dict[str, str]:
    """Man pages by file name: one for each program, and for each command of `ringblk` with all below it."""
    ringblk, backend = all_commands()
    commands = [ringblk, backend, *ringblk.commands]
    names = sorted(command.page for command in commands)
    return {f"{command.page}.1": man_page(command, VERSION, names) for command in commands}


def share_files() -> dict[str, str]:
    """All of them, by their paths below share/."""
    texts = {f"man/man1/{name}": text for name, text in pages().items()}
    for shell, places in _PLACES.items():
        texts |= dict.fromkeys(places, completion_text(shell))
    return texts


def write_share_files(folder: Path) -> None:
    """Write them below a folder."""
    for name, text in share_files().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


if __name__ == "__main__":
    write_share_files(Path(sys.argv[1]))
