"""The command line as a whole: help, exit codes, and how failures are told."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module

import pytest
from command import ROOT, tokenweir

from extproc import __version__
from extproc.__main__ import COMMANDS, main, parser

Capture = pytest.CaptureFixture[str]


def helped(*arguments: str, capsys: Capture) -> str:
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_help_lists_every_command_with_what_it_does(capsys: Capture) -> None:
    text = helped(capsys=capsys)
    for name in COMMANDS:
        assert re.search(rf"^    {name}\s+\w+ \w+", text, re.MULTILINE), name


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example_that_parses(name: str, capsys: Capture) -> None:
    text = helped(name, capsys=capsys)
    example = import_module(COMMANDS[name]).EXAMPLE
    assert re.sub(r"\s+", " ", text).endswith(f"example: {example} ")
    command = example.split(" > ")[0].split()
    assert command[:2] == ["tokenweir", name]
    assert parser().parse_args(command[1:]).command == name


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_json_and_says_what_each_option_is(name: str, capsys: Capture) -> None:
    text = helped(name, capsys=capsys)
    assert "--json" in text
    options = parser()._subparsers._group_actions[0].choices[name]._actions
    for option in options:
        assert option.help, option.dest


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["chek"],
        ["check"],
        ["check", "configs", "--jsn"],
        ["up", "--listen", "8080"],
        ["up", "--concurrency", "0"],
        ["up", "--policy", "nowhere"],
        ["up", "--tls", "no.pem", "no.key"],
        ["sidecar", "--socket-mode", "rw"],
        ["keys", "revoke"],
        ["keys", "new"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2_and_said_on_stderr(
    arguments: list[str], capsys: Capture
) -> None:
    try:
        status: object = main(arguments)
    except SystemExit as ended:
        status = ended.code
    assert status == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()[-1]) > len("tokenweir: error: ")


def test_the_version(capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"tokenweir {__version__}\n"
    pyproject = (ROOT / "pyproject.toml").read_text()
    assert f'version = "{__version__}"' in pyproject


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(13, "Permission denied", "/s"), "/s: Permission denied"),
        (OSError(98, "address already in use"), "address already in use"),
        (OSError("without a number"), "without a number"),
    ],
)
def test_what_the_system_refuses_is_one_line_and_exit_code_1(
    error: OSError, said: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def refused(_: object) -> int:
        raise error

    monkeypatch.setattr("extproc.cli.check.run", refused)
    assert main(["check", "configs"]) == 1
    assert capsys.readouterr().err == f"tokenweir check: {said}\n"


def test_ctrl_c_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("extproc.cli.check.run", interrupted)
    assert main(["check", "configs"]) == 130


def test_a_reader_that_has_seen_enough_is_no_traceback() -> None:
    command = [sys.executable, "-m", "extproc", "render", "configs"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(timeout=30) == 1


def test_a_quick_command_does_not_wait_for_the_servers_libraries() -> None:
    code = (
        "import sys, extproc.__main__ as m\n"
        "m.main(['keys', 'new', 'app'])\n"
        "print({'grpc', 'aiohttp', 'uvloop'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout.endswith("set()\n")


def test_the_installed_command_is_this_one() -> None:
    assert 'tokenweir = "extproc.__main__:main"' in (ROOT / "pyproject.toml").read_text()
    assert tokenweir("--version").returncode == 0
