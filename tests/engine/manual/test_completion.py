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
function=$(complete -p "$2" | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
while IFS= read -r line; do
    IFS=$'\\t' read -r -a COMP_WORDS <<<"$line"
    [[ $line == *$'\\t' ]] && COMP_WORDS+=('')
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    "$function"
    echo "${COMPREPLY[*]}"
done
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


def offered(bash_file: Path, lines: list[tuple[str, ...]], folder: Path | None = None) -> list[list[str]]:
    """What bash offers for the last word of each line, whose words are as it cuts them."""
    command = ["bash", "--norc", "-c", BASH, "bash", str(bash_file), "ringblk"]
    words = "".join("\t".join(line) + "\n" for line in lines)
    done = subprocess.run(command, input=words, cwd=folder, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return [line.split() for line in done.stdout.splitlines()]


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_option_of_the_table_completes(bash_file: Path, program: tuple[str, ...]) -> None:
    every, *each = offered(bash_file, [(*program, "--"), *((*program, option) for option in OPTIONS)])
    assert set(OPTIONS) | {"--config"} <= {reply.rstrip("=") for reply in every}
    for option, replies in zip(OPTIONS, each, strict=True):
        assert option in {reply.rstrip("=") for reply in replies}


def test_every_command_and_option_completes(bash_file: Path) -> None:
    commands = [command for program in all_commands() for command in program.walk()]
    options = offered(bash_file, [(*command.words, "--") for command in commands])
    names = offered(bash_file, [(*command.words, "") for command in commands])
    for command, replies, below in zip(commands, options, names, strict=True):
        wanted = {name for each in command.options for name in each.names if name[1] == "-"}
        assert {reply.rstrip("=") for reply in replies} == wanted
        if command.commands:
            assert below == [each.words[-1] for each in command.commands]


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
    assert offered(bash_file, [words], tmp_path) == [replies]


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
