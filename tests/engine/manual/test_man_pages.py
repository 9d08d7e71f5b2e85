"""Man pages: every option of the parsers is in one, and groff has nothing to say."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ringblk.engine.base.version import VERSION
from ringblk.engine.manual.man_page import escaped
from ringblk.engine.options.command_line import option_fields
from ringblk.engine.program.share_files import all_commands, pages, write_share_files

PAGES = pages()
SERVING = ("ringblk-serve.1", "vhost-user-ringblk.1")


def test_there_is_one_for_each_program_and_command() -> None:
    ringblk, backend = all_commands()
    names = {"ringblk", "vhost-user-ringblk", *(f"ringblk-{each.words[-1]}" for each in ringblk.commands)}
    assert backend.words == ("vhost-user-ringblk",)
    assert {f"{name}.1" for name in names} == PAGES.keys()
    assert {"ringblk-serve.1", "ringblk-image.1", "ringblk-doctor.1"} <= PAGES.keys()


@pytest.mark.parametrize("name", SERVING)
def test_every_option_of_the_table_is_in_the_page(name: str) -> None:
    headed = set(re.findall(r"^\\fB(\\-\\-[a-z0-9\\-]+)\\fR", PAGES[name], re.MULTILINE))
    wanted = {f"--{field.name.replace('_', '-')}" for field in option_fields()} | {"--config"}
    assert {escaped(option) for option in wanted} <= headed


def test_every_option_of_every_command_is_in_its_page() -> None:
    for program in all_commands():
        for command in program.walk():
            page = PAGES[f"{'-'.join(command.words[:2])}.1"]
            for argument in (*command.options, *command.arguments):
                assert escaped(argument.help) in page, (command.words, argument)


def test_a_value_is_said_with_its_words() -> None:
    assert "\n\\fB\\-\\-direct\\fR=\\fIauto|on|off\\fR\n" in PAGES["ringblk-serve.1"]
    assert "\n\\fB\\-\\-read\\-only\\fR\n" in PAGES["ringblk-serve.1"]


@pytest.mark.parametrize("text", [".TH", "'\\\"", "back\\slash", "a - b", "~^`"])
def test_text_is_no_request(text: str) -> None:
    if not shutil.which("groff"):
        pytest.skip("no groff")
    page = f'.TH A 1 "" "" ""\n.SH NAME\n{escaped(text)}\n'
    shown = subprocess.run(
        ["groff", "-man", "-Tascii", "-P-c"], input=page, capture_output=True, text=True, check=True
    ).stdout
    assert text in re.sub(".\b", "", shown)


@pytest.mark.parametrize("name", sorted(PAGES))
def test_groff_has_nothing_to_say(name: str) -> None:
    if not shutil.which("groff"):
        pytest.skip("no groff")
    command = ["groff", "-ww", "-man", "-Tutf8", "-rCHECKSTYLE=3"]
    done = subprocess.run(command, input=PAGES[name], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout


@pytest.mark.skipif(not shutil.which("man"), reason="no man")
def test_man_finds_them(tmp_path: Path) -> None:
    write_share_files(tmp_path)
    environment = {
        "MANPATH": str(tmp_path / "man"),
        "PATH": "/usr/bin:/bin",
        "LC_ALL": "C",
        "MANWIDTH": "100",
    }
    command = ["man", "--pager=cat", "vhost-user-ringblk"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "--socket-path=VALUE" in re.sub(".\b", "", done.stdout)
    assert f"ringblk {VERSION}" in done.stdout
