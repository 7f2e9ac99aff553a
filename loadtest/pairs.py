"""``make bench-pairs AGAINST=ref``: is this tree faster or slower than another?

Two runs an hour apart differ by more than most changes do. Here both trees run at the same time,
each with its own upstream, Envoy and sidecar, and short saturating slices alternate between them:
what slows the machine down hits both halves of a pair. A ratio is taken within a pair; the figure
is the median of the ratios. After every few pairs both are started anew, in the other order: where
the kernel puts a process's pages is worth some percent for as long as it lives, and of two like
trees the one that was started second is faster more often than not.

    python -m loadtest.pairs --against REF_OR_FOLDER [--tree FOLDER] [--compile] [--pairs N]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from loadtest.processes import LOAD_CPU, START_S, Child, Processes, StartError
from loadtest.report import NOISE_LIMIT_CORES

ROOT = Path(__file__).parents[1]
PAIRS = 8
PAIRS_PER_START = 2
SLICE_S = 1.5
VARIANTS = ("allow", "governed")
"""``allow`` shows what changed in Envoy's part, ``governed`` all (see ``loadtest/stack.py``)."""
CHILD_START_S = 4 * START_S
"""It starts an upstream, Envoys and sidecars, and warms them up."""
ANSWER_S = 60.0
"""Beyond its seconds, the time that a slice may take before its child counts as stuck."""
_CHILD = Path(__file__).with_name("pair_child.py")
_NOT_COPIED = shutil.ignore_patterns(".*", "build", "results", "__pycache__", "dist", "*.egg-info")


@dataclass(frozen=True, slots=True)
class Figures:
    """One slice on one tree."""

    rps: float
    envoy_us: float
    """CPU per request, microseconds."""
    python_us: float
    noise_cores: float
    valid: bool


Pair = tuple[Figures, Figures]
"""This tree's slice and the other's, one right after the other."""


class Tree:
    """A child that runs one tree."""

    def __init__(
        self,
        name: str,
        folder: Path,
        processes: Processes,
        python: str,
        variants: Sequence[str] = VARIANTS,
    ) -> None:
        """Raises ``StartError``."""
        path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH", ""))))
        self._child, _ = processes.start(
            name,
            # -P: this file's folder is not put on the path, where it would come before the tree.
            [python, "-P", str(_CHILD), *variants],
            cpu=LOAD_CPU,
            environ={"PYTHONPATH": path},
            folder=folder,
            talks=True,
        )
        self._child.next_line(CHILD_START_S, "ready")

    def load(self, variant: str, seconds: float) -> Figures:
        """One slice. Raises ``StartError`` when the child died or hangs."""
        answer = _ask(self._child, f"{variant} {seconds}\n", seconds + ANSWER_S)
        return Figures(**json.loads(answer))


def _ask(child: Child, line: str, at_most_s: float) -> str:
    stdin = child.process.stdin
    assert stdin is not None
    try:
        stdin.write(line.encode())
        stdin.flush()
    except BrokenPipeError:
        raise StartError(f"{child.name} died:\n{child.tail()}") from None
    return child.next_line(at_most_s)


def alternate(
    trees: tuple[Tree, Tree], variants: Sequence[str], pairs: int, seconds: float
) -> dict[str, list[Pair]]:
    """Pairs by variant. Who is first in a pair changes from pair to pair, so that a machine that
    warms up or slows down favours neither."""
    found: dict[str, list[Pair]] = {name: [] for name in variants}
    for number in range(pairs):
        for name in variants:
            if number % 2:
                second, first = (tree.load(name, seconds) for tree in reversed(trees))
            else:
                first, second = (tree.load(name, seconds) for tree in trees)
            found[name].append((first, second))
            print(_progress(number, name, (first, second)), file=sys.stderr, flush=True)
    return found


def _started(
    folders: dict[str, Path],
    logs: Path,
    python: str,
    variants: Sequence[str],
    pairs: int,
    seconds: float,
    *,
    other_first: bool,
) -> dict[str, list[Pair]]:
    """Some pairs on trees that are started for them. Raises ``StartError``."""
    processes = Processes(logs)
    try:
        order = ("other", "this") if other_first else ("this", "other")
        trees = {name: Tree(name, folders[name], processes, python, variants) for name in order}
        return alternate((trees["this"], trees["other"]), variants, pairs, seconds)
    finally:
        processes.stop_all()


def table(pairs: dict[str, list[Pair]]) -> str:
    """A Markdown table: one line per variant."""
    lines = [
        "| variant | req/s | other req/s | ratio, median | ratios, lowest to highest "
        "| Envoy us/req | other | Python us/req | other | pairs |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, rows in pairs.items():
        good = [pair for pair in rows if all(item.valid for item in pair)]
        noisy = sum(any(item.noise_cores > NOISE_LIMIT_CORES for item in pair) for pair in good)
        if not good:
            lines.append(f"| {name} | {'- | ' * 8}INVALID |")
            continue
        ratios = sorted(mine.rps / other.rps for mine, other in good)
        cells = (
            *(f"{median(pair[side].rps for pair in good):,.0f}" for side in (0, 1)),
            f"{median(ratios):.3f}",
            f"{ratios[0]:.3f} to {ratios[-1]:.3f}",
            *(
                f"{median(getattr(pair[side], part) for pair in good):.1f}"
                for part in ("envoy_us", "python_us")
                for side in (0, 1)
            ),
            f"{len(good)} of {len(rows)}" + (f", {noisy} NOISY" if noisy else ""),
        )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _progress(number: int, name: str, pair: Pair) -> str:
    ratio = pair[0].rps / pair[1].rps if pair[1].rps else 0.0
    noise = max(item.noise_cores for item in pair)
    mark = "" if all(item.valid for item in pair) else "  INVALID"
    return f"pair {number + 1} {name:<9} ratio {ratio:.3f}  noise {noise:.2f}{mark}"


# -- the trees ------------------------------------------------------------------------------------


def checked_out(against: str, into: Path, repository: Path = ROOT) -> Path:
    """The folder of a tree: ``against`` itself when it is a folder, else what the git ref holds,
    written to ``into``. Raises ``StartError`` for a ref that does not exist."""
    if Path(against).is_dir():
        return Path(against).resolve()
    into.mkdir(parents=True)
    # Not a worktree: that would leave its mark in the repository when this run is killed.
    git = ["git", "-C", str(repository), "rev-parse", "--show-toplevel"]
    top = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    packed = into.with_suffix(".tar")
    command = ["git", "-C", top or str(repository), "archive", "-o", str(packed), against]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StartError(f"{against} is no folder and no git ref: {done.stderr.strip()}")
    # Python's own has no safe filter before 3.11.4.
    subprocess.run(["tar", "-xf", str(packed), "-C", str(into)], check=True)
    packed.unlink()
    return into


def compiled(folder: Path, into: Path, python: str = sys.executable) -> Path:
    """The tree with its own list of hot modules compiled: a copy, or the tree itself when it is
    compiled already. Raises ``StartError``."""
    if any((folder / "extproc").glob("core/*.so")):
        return folder
    copy = shutil.copytree(folder, into, ignore=_NOT_COPIED)
    print(f"compiling {folder}", file=sys.stderr, flush=True)
    done = subprocess.run(
        [python, str(copy / "packaging" / "compile.py"), str(copy)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise StartError(f"{folder} does not compile:\n{done.stdout[-2000:]}")
    return copy


def main(arguments: Sequence[str] | None = None) -> int:
    """0: every pair counts; 1: some slice failed; 2: a tree does not start."""
    options = _parser().parse_args(arguments)
    names = options.variants.split(",")
    with tempfile.TemporaryDirectory(prefix="lt-pairs-", ignore_cleanup_errors=True) as folder:
        root = Path(folder)
        pairs: dict[str, list[Pair]] = {name: [] for name in names}
        try:
            this, other = options.tree.resolve(), checked_out(options.against, root / "other")
            if options.compile:
                this, other = compiled(this, root / "this-so"), compiled(other, root / "other-so")
            for start in range(-(-options.pairs // PAIRS_PER_START)):
                count = min(PAIRS_PER_START, options.pairs - start * PAIRS_PER_START)
                folders = {"this": this, "other": other}
                found = _started(
                    folders,
                    root / f"logs{start}",
                    options.python,
                    names,
                    count,
                    options.seconds,
                    other_first=start % 2 == 1,
                )
                for name in names:
                    pairs[name] += found[name]
        except StartError as error:
            print(error, file=sys.stderr)
            return 2
    print(f"this: {options.tree}   other: {options.against}\n")
    print(table(pairs))
    return 0 if all(item.valid for rows in pairs.values() for pair in rows for item in pair) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="loadtest.pairs", description=__doc__)
    parser.add_argument("--against", required=True, help="a git ref, or the folder of a tree")
    parser.add_argument("--tree", type=Path, default=ROOT, help="this tree; default: where this is")
    parser.add_argument("--compile", action="store_true", help="compile what is not compiled yet")
    parser.add_argument("--python", default=sys.executable, help="which runs both trees")
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--seconds", type=float, default=SLICE_S, help="of one slice")
    parser.add_argument("--variants", default=",".join(VARIANTS))
    return parser


if __name__ == "__main__":
    sys.exit(main())
