"""Two trees against each other: which trees they are, what is made of their slices, and one real
run of a tree against itself."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from loadtest import pairs
from loadtest.pairs import Figures, Tree, alternate, checked_out, compiled, table
from loadtest.processes import Processes, StartError

ECHO = """
import json, sys
print("ready", flush=True)
for line in sys.stdin:
    name, seconds = line.split()
    if name == "die":
        raise SystemExit("no such luck")
    figures = dict(rps=float(seconds), envoy_us=1, python_us=2, noise_cores=0, valid=True)
    print(json.dumps(figures), flush=True)
"""


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    made = Processes(tmp_path / "logs")
    yield made
    made.stop_all()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "code.py").write_text("old")
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    for command in (("init", "-q"), ("add", "."), (*who, "commit", "-qm", "old")):
        subprocess.run(["git", *command], cwd=folder, check=True)
    (folder / "code.py").write_text("new")
    return folder


def slice_of(rps: float, *, valid: bool = True, noise: float = 0.0) -> Figures:
    return Figures(rps, 100.0, 50.0, noise, valid)


def test_a_ref_is_what_git_holds_and_leaves_no_mark(repository: Path, tmp_path: Path) -> None:
    tree = checked_out("HEAD", tmp_path / "other", repository)
    assert (tree / "code.py").read_text() == "old"
    assert not (tree / ".git").exists()
    assert not (repository / ".git" / "worktrees").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "repository"]


def test_a_folder_is_taken_as_it_is(repository: Path, tmp_path: Path) -> None:
    assert checked_out(str(repository), tmp_path / "other") == repository
    assert not (tmp_path / "other").exists()


def test_what_is_neither_is_said(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(StartError, match="nowhere is no folder and no git ref"):
        checked_out("nowhere", tmp_path / "other", repository)


def test_a_tree_is_compiled_in_a_copy_unless_it_is_already(tmp_path: Path) -> None:
    tree, copy = tmp_path / "tree", tmp_path / "copy"
    (tree / "extproc" / "core").mkdir(parents=True)
    (tree / "packaging").mkdir()
    (tree / ".git").mkdir()
    (tree / "packaging" / "compile.py").write_text(
        "import sys, pathlib; pathlib.Path(sys.argv[1], 'extproc/core/a.so').touch()"
    )
    assert compiled(tree, copy) == copy
    assert (copy / "extproc" / "core" / "a.so").exists()
    assert not (copy / ".git").exists()
    assert list((tree / "extproc" / "core").iterdir()) == []
    assert compiled(copy, tmp_path / "again") == copy
    (tree / "packaging" / "compile.py").write_text("raise SystemExit('no compiler')")
    with pytest.raises(StartError, match="no compiler"):
        compiled(tree, tmp_path / "third")


def test_slices_alternate_and_so_does_who_is_first() -> None:
    said: list[str] = []

    class Known:
        def __init__(self, name: str) -> None:
            self.name = name

        def load(self, variant: str, seconds: float) -> Figures:
            said.append(f"{self.name} {variant}")
            return slice_of({"this": 90.0, "other": 100.0}[self.name])

    trees = (Known("this"), Known("other"))
    found = alternate(trees, ("allow", "governed"), 2, 0.1)  # type: ignore[arg-type]
    assert said == [
        *("this allow", "other allow", "this governed", "other governed"),
        *("other allow", "this allow", "other governed", "this governed"),
    ]
    assert found["allow"] == [(slice_of(90.0), slice_of(100.0))] * 2


def test_the_table_takes_its_ratio_within_pairs() -> None:
    """The machine was twice as fast during the second pair: medians of the sides say nothing."""
    rows = [
        (slice_of(110.0), slice_of(100.0)),
        (slice_of(220.0), slice_of(200.0)),
        (slice_of(90.0), slice_of(100.0, noise=0.2)),
        (slice_of(5.0, valid=False), slice_of(100.0)),
    ]
    lines = table({"allow": rows, "governed": rows[3:]}).splitlines()
    assert "| 110 | 100 | 1.100 | 0.900 to 1.100 |" in lines[2]
    assert "3 of 4, 1 NOISY" in lines[2]
    assert lines[3].endswith("INVALID |")
    assert "5" not in lines[3]


def test_a_tree_answers_line_by_line_and_a_dead_one_shows_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: Processes
) -> None:
    child = tmp_path / "child.py"
    child.write_text(ECHO)
    monkeypatch.setattr(pairs, "_CHILD", child)
    tree = Tree("tree", tmp_path, processes, sys.executable)
    assert tree.load("governed", 0.5).rps == 0.5
    assert tree.load("allow", 2.0).rps == 2.0
    with pytest.raises(StartError, match="no such luck"):
        tree.load("die", 1.0)


def test_a_tree_against_itself_counts_and_leaves_nothing_running(
    capsys: pytest.CaptureFixture[str], processes: Processes
) -> None:
    """The real thing, with two Envoys and two sidecars of the product."""
    arguments = ["--against", str(pairs.ROOT), "--pairs", "3", "--seconds", "0.2"]
    assert pairs.main([*arguments, "--variants", "governed"]) == 0
    said = capsys.readouterr().out
    assert "| governed |" in said
    assert "3 of 3" in said  # of two starts
    assert psutil.Process().children(recursive=True) == []


def test_a_tree_that_does_not_start_is_an_error(
    capsys: pytest.CaptureFixture[str], processes: Processes
) -> None:
    assert pairs.main(["--against", "no-such-ref"]) == 2
    assert "no-such-ref" in capsys.readouterr().err
