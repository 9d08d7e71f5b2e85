"""Completion, asked for in the shells themselves."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ringblk.engine.options.command_line import option_fields
from ringblk.engine.program.share_files import all_commands, completion_text

PROGRAM = str(Path(sys.executable).with_name("ringblk"))
PROGRAMS = [("ringblk", "serve"), ("vhost-user-ringblk",), ("/usr/bin/ringblk", "serve")]
OPTIONS = [f"--{field.name.replace('_', '-')}" for field in option_fields()]

BASH = """
source "$1"
shift
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
"$(complete -p "${1##*/}" | sed 's/.*-F \\([^ ]*\\) .*/\\1/')"
printf '%s\\n' "${COMPREPLY[@]}"
"""

ZSH = """
zmodload zsh/zpty || exit 3
zpty z zsh -f -i
for each in PROMPT= "module_path=($module_path); fpath=($1 $fpath)" 'zmodload zsh/zle; setopt zle' \\
    'autoload -U compinit; compinit -u -D' "echo RE''ADY"; do zpty -w z $each; done
zpty -r z answer '*READY*'
zpty -w -n z "$2"$'\\t\\t'
zpty -w -n z $'\\C-a\\C-k'"echo DO''NE"$'\\n'
zpty -r z answer '*DONE*'
print -r -- "$answer"
"""


@pytest.fixture
def bash_file(tmp_path: Path) -> Path:
    path = tmp_path / "completion"
    path.write_text(completion_text("bash"))
    return path


def offered(bash_file: Path, *words: str, folder: Path | None = None) -> list[str]:
    """What bash offers for the last of these words, which are as it cuts them."""
    command = ["bash", "--norc", "-c", BASH, "bash", str(bash_file), *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    "program", [("ringblk", "serve"), ("vhost-user-ringblk",), ("/usr/bin/ringblk", "serve")]
)
def test_every_option_of_the_table_completes(bash_file: Path, program: tuple[str, ...]) -> None:
    replies = offered(bash_file, *program, "--")
    assert set(OPTIONS) | {"--config"} <= {reply.rstrip("=") for reply in replies}
    for option in OPTIONS:
        assert option in {reply.rstrip("=") for reply in offered(bash_file, *program, option)}


def test_every_command_and_option_completes(bash_file: Path) -> None:
    for program in all_commands():
        for command in program.walk():
            replies = {reply.rstrip("=") for reply in offered(bash_file, *command.words, "--")}
            assert replies == {name for each in command.options for name in each.names if name[1] == "-"}
            if command.commands:
                assert offered(bash_file, *command.words, "") == [each.words[-1] for each in command.commands]


@pytest.mark.parametrize(
    ("words", "replies"),
    [
        (("ringblk", "im"), ["image"]),
        (("ringblk", "image", "im"), ["import"]),
        (("ringblk", "serve", "--direct", "="), ["auto", "on", "off"]),
        (("ringblk", "serve", "--direct", "=", "o"), ["on", "off"]),
        (("ringblk", "serve", "--direct", "o"), ["on", "off"]),
        (("ringblk", "serve", "--read-only", "--cac"), ["--cache="]),
        (("vhost-user-ringblk", "--backend", "=", "n"), ["null"]),
        (("vhost-user-ringblk", "--blk-file", "=", "di"), ["disk.img"]),
        (("vhost-user-ringblk", "--workers", ""), []),
        (("ringblk", "image", "import", "--force", "di"), ["disk.img"]),
        (("ringblk", "doctor", "di"), ["disk.img"]),
        (("ringblk", "completion", ""), ["bash", "zsh", "fish"]),
        (("ringblk", "doctor", "--format", "=", ""), ["human", "json"]),
    ],
)
def test_values(tmp_path: Path, bash_file: Path, words: tuple[str, ...], replies: list[str]) -> None:
    (tmp_path / "disk.img").touch()
    assert offered(bash_file, *words, folder=tmp_path) == replies


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_command_prints_it(shell: str) -> None:
    done = subprocess.run([PROGRAM, "completion", shell], capture_output=True, text=True, check=True)
    assert done.stdout == completion_text(shell)
    assert all(option.lstrip("-") in done.stdout for option in OPTIONS)


@pytest.mark.skipif(not shutil.which("zsh"), reason="no zsh")
@pytest.mark.parametrize(
    ("line", "reply"),
    [
        ("ringblk ", "doctor"),
        ("ringblk image im", "import"),
        ("ringblk serve --direct=", "auto"),
        ("vhost-user-ringblk --san", "--sandbox-allow"),
    ],
)
def test_zsh_offers_the_same(tmp_path: Path, line: str, reply: str) -> None:
    (tmp_path / "_ringblk").write_text(completion_text("zsh"))
    command = ["zsh", "-f", "-c", ZSH, "zsh", str(tmp_path), line]
    assert reply in subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.mark.skipif(not shutil.which("fish"), reason="no fish")
def test_fish_offers_the_same(tmp_path: Path) -> None:
    (tmp_path / "ringblk.fish").write_text(completion_text("fish"))
    for line, reply in (("ringblk image im", "import"), ("vhost-user-ringblk --direct=", "--direct=auto")):
        script = f"source {tmp_path / 'ringblk.fish'}; complete -C '{line}'"
        done = subprocess.run(["fish", "-N", "-c", script], capture_output=True, text=True, check=True)
        assert reply in done.stdout
