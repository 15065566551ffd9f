"""How a run of `linkseal` ends: exit codes, messages, streams, colour, start-up."""

from __future__ import annotations

import importlib.util
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from linkseal.keys.errors import ConfigError, DirectoryError, HostError, LinksealError, PeerError, Refused
from linkseal.tunnels.cli.exits import MEANINGS, ExitCode, describe_error, exit_code_of, redact
from linkseal.tunnels.cli.main import COMMANDS, cli, program_name
from linkseal.tunnels.cli.options import Command
from linkseal.tunnels.cli.output import Cell, Paint, Tone, age, size
from linkseal.tunnels.cli.reference import commands, markdown
from linkseal.tunnels.directory.kubeapi import ApiError

from .conftest import Run

LINKSEAL = Path(sys.executable).with_name("linkseal")
SECRET = "qLfYm2pUO0Ks2mGZ1lfcZ1S3b0hVbVvQm2VYJm5Wn0w="


@pytest.fixture
def boom(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Add a command `boom` that fails with the given error."""

    def add(error: BaseException) -> None:
        def callback() -> None:
            raise error

        monkeypatch.setitem(cli.commands, "boom", Command("boom", callback=callback))

    return add


ENDS = [
    (ConfigError("wrong"), 2),
    (DirectoryError("gone"), 3),
    (Refused("unsafe"), 5),
    (HostError("refused"), 1),
    (PeerError("bad", code="LS1001"), 1),
    (LinksealError("of a new kind"), 70),
    (ValueError("a bug"), 70),
    (click.UsageError("usage"), 2),
    (click.Abort(), 130),
    (KeyboardInterrupt(), 130),
]


@pytest.mark.parametrize(("error", "code"), ENDS, ids=[type(error).__name__ for error, _ in ENDS])
def test_every_error_ends_with_its_exit_code(
    run: Run, boom: Callable[..., None], error: BaseException, code: int
) -> None:
    boom(error)
    done = run("boom")
    assert (done.code, done.out) == (code, "")
    assert done.err != ""


def test_every_exit_code_has_a_meaning() -> None:
    assert set(MEANINGS) == set(ExitCode)
    assert sorted(ExitCode) == [0, 1, 2, 3, 4, 5, 70, 130]


def test_a_bug_is_said_to_be_ours_with_the_traceback_only_on_request(run: Run, boom: Callable[..., None]) -> None:
    boom(RuntimeError(f"key {SECRET}"))
    quiet, loud = run("boom"), run("boom", "-v")
    assert "bug in Linkseal: RuntimeError" in quiet.err
    assert "-v" in quiet.err
    assert "Traceback" not in quiet.err
    assert "Traceback" in loud.err
    assert "key (hidden)" in loud.err
    assert SECRET not in quiet.err + loud.err


@pytest.mark.parametrize(
    "secret",
    [
        SECRET,
        "a1" * 32,
        "-----BEGIN EC PRIVATE KEY-----\nMIGkAgEB\n-----END EC PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\nMIG",
    ],
)
def test_what_looks_like_a_key_is_hidden(secret: str) -> None:
    assert redact(f"before {secret}") == "before (hidden)"


def test_an_error_of_ours_is_told_in_its_own_words() -> None:
    assert describe_error(HostError("no nft; install it"), verbose=False) == "error: no nft; install it"
    assert exit_code_of(HostError("x")) is ExitCode.FOUND


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (("statsu",), "did you mean `status`?"),
        (("agent", "cleenup"), "did you mean `cleanup`?"),
        (("zzz",), "there are: status, links"),
        (("status", "--wach"), "--watch"),
        (("explain", "LS200"), "did you mean LS2"),
    ],
)
def test_a_misspelt_word_is_answered_with_the_nearest(run: Run, words: tuple[str, ...], advice: str) -> None:
    done = run(*words)
    assert (done.code, done.out) == (2, "")
    assert advice in done.err


def test_help_is_data_and_a_missing_command_is_a_usage_error(run: Run) -> None:
    shown, missing = run("--help"), run()
    assert (shown.code, shown.err) == (0, "")
    assert (missing.code, missing.out) == (2, "")
    assert "Usage: linkseal" in shown.out
    assert "Usage: linkseal" in missing.err


def test_as_a_plugin_of_kubectl_it_shows_that_name() -> None:
    assert program_name("/usr/bin/kubectl-linkseal") == "kubectl linkseal"
    assert program_name("/usr/bin/linkseal") == "linkseal"
    done = subprocess.run(
        [LINKSEAL.with_name("kubectl-linkseal"), "links", "--help"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("Usage: kubectl linkseal links ")


def test_global_options_count_before_and_after_the_command(run: Run, tmp_path: Path) -> None:
    before, after = run("--directory", tmp_path, "status"), run("status", "--directory", tmp_path)
    assert before == after
    assert before.code == 3
    assert run("-o", "json", "version").out == run("version", "-o", "json").out
    assert run("-o", "svg", "version").code == 2
    assert run("-o", "json", "completion", "bash").code == 2


def test_the_directory_may_come_from_the_environment(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINKSEAL_DIRECTORY", str(tmp_path / "env"))
    assert str(tmp_path / "env") in run("status").err
    assert str(tmp_path / "flag") in run("status", "--directory", tmp_path / "flag").err


@pytest.mark.parametrize(
    ("name", "words"),
    [("LINKSEAL_DIRECTORY", ("status",)), ("LINKSEAL_CA", ("disable", "--dry-run"))],
)
def test_a_cluster_on_the_command_line_goes_before_the_environment(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: tuple[str, ...]
) -> None:
    """Or the wrong cluster would be looked at, or changed."""
    monkeypatch.setenv(name, str(tmp_path / "a-lab"))
    kubeconfig = tmp_path / "no-kubeconfig"
    for given in ((*words, "--kubeconfig", kubeconfig), ("--kubeconfig", kubeconfig, *words)):
        done = run(*given)
        assert (done.code, "a-lab" in done.err) == (2, False), done.err
        assert "no-kubeconfig" in done.err


@pytest.mark.parametrize(
    "words", [("status", "--directory", "a-lab"), ("disable", "--dry-run", "--ca", "a-lab")], ids=" ".join
)
def test_two_places_on_the_command_line_are_one_too_many(run: Run, tmp_path: Path, words: tuple[str, ...]) -> None:
    done = run(*words, "--context", "prod")
    assert done.code == 2
    assert "exclude each other" in done.err


def test_what_to_do_about_an_api_server_stands_behind_what_it_said() -> None:
    for status, words in ((401, "log in again"), (403, "linkseal-operate"), (404, "install its chart")):
        error = ApiError(f"GET /apis/linkseal.io/v1alpha1/nodeencryptions: {status}", status)
        said = describe_error(error, verbose=False)
        assert said.startswith(f"error: {error}\n")
        assert words in said
    assert (
        describe_error(ApiError("GET /api/v1/nodes/n1: 404", 404), verbose=False) == "error: GET /api/v1/nodes/n1: 404"
    )


def test_without_a_directory_it_says_how_to_name_one(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("linkseal.tunnels.cli.session.DEFAULT_CONFIG", tmp_path / "none.yaml")
    done = run("status")
    assert done.code == 2
    assert "--directory PATH" in done.err


# --- streams -------------------------------------------------------------------------------------------------------


def test_a_closed_pipe_is_quiet() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([LINKSEAL, "explain", "--list"], stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def on_a_terminal(*arguments: str, **environment: str) -> str:
    reading, writing = pty.openpty()
    clean = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    subprocess.run([LINKSEAL, *arguments], stdout=writing, env={**clean, "TERM": "xterm", **environment}, check=True)
    os.close(writing)
    text = b""
    try:
        while part := os.read(reading, 65536):
            text += part
    except OSError:  # Linux ends a terminal whose other side is closed with EIO
        pass
    os.close(reading)
    return text.decode()


def test_colour_is_for_terminals_and_those_who_want_it() -> None:
    assert "\x1b[" in on_a_terminal("explain", "--list")
    assert "\x1b[" not in on_a_terminal("explain", "--list", NO_COLOR="1")
    assert "\x1b[" not in on_a_terminal("explain", "--list", "--no-color")
    assert "\x1b[" not in on_a_terminal("explain", "--list", TERM="dumb")
    piped = subprocess.run([LINKSEAL, "explain", "--list"], capture_output=True, check=True)
    assert b"\x1b[" not in piped.stdout


def test_a_c_locale_is_no_reason_to_crash() -> None:
    environment = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([LINKSEAL, "explain", "--list"], capture_output=True, env=environment, check=False)
    assert done.returncode == 0


# --- start-up ------------------------------------------------------------------------------------------------------

HEAVY = ("rich", "pydantic", "cryptography", "pyroute2", "yaml", "asyncio", "wgconfig", "tenacity")


@pytest.mark.parametrize("word", ["version", "--help", "--version"])
def test_a_quick_command_imports_nothing_heavy(word: str) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-X",
            "importtime",
            "-c",
            f"import sys; from linkseal.tunnels.cli.main import main; main(['{word}'])",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "linkseal.tunnels.cli.main" in imported
    assert imported.isdisjoint(HEAVY)


# --- documentation -------------------------------------------------------------------------------------------------


def test_the_reference_is_what_the_commands_say() -> None:
    document = Path(__file__).parents[3] / "docs" / "commands.md"
    assert document.read_text(encoding="utf-8") == markdown(), "run `python docs/commands.py`"


def test_every_command_and_option_has_help() -> None:
    for path, command in commands():
        assert command.help, path
        for param in command.params:
            assert isinstance(param, click.Argument) or getattr(param, "help", None), (path, param.name)


def test_every_leaf_of_ours_has_an_example_that_names_it() -> None:
    for path, command in commands():
        if path[1:2] != ("lab",) and not isinstance(command, click.Group):
            assert isinstance(command, Command), path
            assert any(" ".join(path) in example for example in command.examples), path


def test_the_list_of_commands_says_what_the_commands_say_of_themselves() -> None:
    for name, entry in COMMANDS.items():
        if importlib.util.find_spec(entry.module) is not None:
            command = cli.get_command(click.Context(cli), name)
            assert command is not None
            assert command.get_short_help_str(200) == entry.summary.rstrip(".") or command.help is not None
            assert (command.help or "").partition("\n\n")[0].replace("\n", " ") == entry.summary


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_the_script_of_each_shell(run: Run, shell: str) -> None:
    done = run("completion", shell)
    assert done.code == 0
    assert "_LINKSEAL_COMPLETE" in done.out


def test_completion_completes() -> None:
    environment = {**os.environ, "_LINKSEAL_COMPLETE": "bash_complete", "COMP_WORDS": "linkseal sta", "COMP_CWORD": "1"}
    done = subprocess.run([LINKSEAL], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.split() == ["plain,status"]


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (("sta",), ["status\tSay whether everything is encrypted, and...", ":4"]),
        (("enable", "--to", "e"), ["enforce", ":4"]),
        (("status", "--kubeconfig", ""), [":0"]),
        (("nothing-like-it",), [":4"]),
    ],
)
def test_kubectl_is_told_what_may_come_next(words: tuple[str, ...], lines: list[str]) -> None:
    program = LINKSEAL.with_name("kubectl_complete-linkseal")
    done = subprocess.run([program, *words], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == lines


# --- small things --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0s"),
        (0, "0s"),
        (119.9, "119s"),
        (120, "2m"),
        (192, "3m12s"),
        (600, "10m"),
        (10_799, "179m"),
        (11_100, "3h5m"),
        (28_800, "8h"),
        (172_799, "47h"),
        (187_000, "2d3h"),
        (86_400 * 8, "8d"),
        (86_400 * 400, "400d"),
    ],
)
def test_ages_are_those_of_kubectl(seconds: float, text: str) -> None:
    assert age(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (20 * 2**20, "20 MiB"), (2**60, "1048576 TiB")],
)
def test_sizes_are_in_iec_units(count: int, text: str) -> None:
    assert size(count) == text


def test_a_table_has_no_trailing_spaces_and_aligns_under_colour() -> None:
    rows: list[list[str | Cell]] = [["a", Cell("long", Tone.BAD)], ["bbb", ""]]
    plain = Paint(colour=False).table(("X", "YY"), rows)
    assert plain == ["X     YY", "a     long", "bbb   -"]
    coloured = Paint(colour=True).table(("X", "YY"), rows)
    assert [click.unstyle(line) for line in coloured] == plain
