from __future__ import annotations

from pathlib import Path

from extproc.demo.folder import MAX_FILE_BYTES, MAX_HITS, MAX_READ_LINES, TextFolder, read_folder

FOLDER = TextFolder(
    {
        "a/ledger.py": "def reserve(amount):\n    return hold(amount)\n",
        "b.md": "How money is reserved.\n",
        "long.py": "".join(f"line {number}\n" for number in range(1, 501)),
    }
)


def test_search_shows_the_best_lines_first() -> None:
    first, second, *_ = FOLDER.search("reserve AMOUNT").splitlines()
    assert first == "a/ledger.py:1: def reserve(amount):"
    assert second in ("a/ledger.py:2: return hold(amount)", "b.md:1: How money is reserved.")
    assert len(FOLDER.search("line").splitlines()) == MAX_HITS
    assert FOLDER.search("nowhere_at_all").startswith("No line")
    assert FOLDER.search("?!").startswith("The query has no words")


def test_files_are_read_in_parts() -> None:
    assert FOLDER.read_file("b.md") == "1\tHow money is reserved."
    lines = (FOLDER.read_file("long.py", 301) or "").splitlines()
    assert (lines[0], lines[-1], len(lines)) == ("301\tline 301", "500\tline 500", 200)
    assert (FOLDER.read_file("long.py") or "").endswith("\n(300 more lines)")
    assert MAX_READ_LINES == 200
    assert FOLDER.read_file("long.py", 9_999) == ""


def test_only_what_was_found_below_the_folder_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.py").write_text("x = 1")
    (tmp_path / "binary.py").write_bytes(b"\xff\xfe")
    (tmp_path / "picture.png").write_text("no")
    (tmp_path / "huge.txt").write_text("x" * (MAX_FILE_BYTES + 1))
    (tmp_path / "link.py").symlink_to("/etc/hostname")
    found = read_folder(tmp_path)
    assert found == {"sub/a.py": "x = 1"}
    folder = TextFolder(found)
    for path in ("../../etc/passwd", "/etc/passwd", "sub/../sub/a.py", ""):
        assert folder.read_file(path) is None
