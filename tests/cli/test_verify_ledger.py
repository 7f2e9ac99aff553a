"""``tokenweir verify-ledger`` as a shell sees it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import tokenweir
from usage_logs import NOW, account, amounts, limit, rewrite

from extproc.__main__ import main
from extproc.ledger.embedded import EmbeddedLedger
from extproc.ledger.journal import Journal
from extproc.values.limit import Unit

DOLLAR = limit("dollar", 1_000_000, "monthly", Unit.MICRO_USD)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    ledger = EmbeddedLedger(Journal(tmp_path / "ledger"))
    one = account(DOLLAR, value="p1")
    for n in range(10):
        ledger.reserve(f"r{n}", one, amounts(9_000), NOW + n, NOW + 99_000)
        ledger.settle(f"r{n}", amounts(8_000), NOW + n, {"usage": [8_000, 0]})
    ledger.correct(DOLLAR, "p1", -5, NOW + 20, {"reason": "mispriced", "operator": "ops"})
    ledger.close()
    return tmp_path


def spoil(state: Path) -> None:
    def plant(content: list) -> None:
        booking = next(record for record in content if record[0] == "a")
        booking[2][2] = 500_000

    rewrite(state / "ledger", plant)


def test_a_sound_state_folder_is_proven(state: Path) -> None:
    result = tokenweir("verify-ledger", state)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"{state / 'ledger'}: ")
    assert "  dollar: at most 810000 of 1000000 micro-USD admitted" in lines
    correction = next(line for line in lines if "correction" in line and "log:" in line)
    assert correction.endswith("dollar p1: -5 (reason: 'mispriced' operator: 'ops')")
    assert lines[-1] == "proven: settled + reserved <= ceiling at every admission"


def test_the_first_entry_that_breaks_the_bound_is_named_and_the_exit_code_is_1(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(state)
    assert main(["verify-ledger", str(state / "ledger")]) == 1
    *_, broken, expected, found = capsys.readouterr().out.splitlines()
    where = f"broken at {state}/ledger/usage-000001.log:17: "
    assert broken == where + "dollar p1: settled + reserved is above the ceiling"
    assert expected.split() == ["expected", "at", "most", "500000", "micro-USD"]
    assert found.split() == ["found", "570000"]


def test_json_says_the_same(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify-ledger", "--json", str(state)]) == 0
    document = json.loads(capsys.readouterr().out)
    (ledger,) = document["ledgers"]
    assert document["proven"] is True
    assert ledger["reserved"] == ledger["settled"] == 10
    assert ledger["peaks"]["dollar"]["highest"] == 810_000
    spoil(state)
    assert main(["verify-ledger", "--json", str(state)]) == 1
    (ledger,) = json.loads(capsys.readouterr().out)["ledgers"]
    assert ledger["broken"]["found"] == "570000"


def test_sidecars_of_one_store_are_one_proof_and_others_are_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, arbiter in (("a", "redis"), ("b", "redis"), ("c", "")):
        ledger = EmbeddedLedger(Journal(tmp_path / name / "ledger", arbiter=arbiter))
        ledger.book(name, account(DOLLAR, value="p1"), amounts(40_000), NOW, NOW + 99_000)
        ledger.close()
    folders = [str(tmp_path / name) for name in "abc"]
    assert main(["verify-ledger", "--json", *folders]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [len(each["folders"]) for each in document["ledgers"]] == [1, 2]
    assert document["ledgers"][1]["peaks"]["dollar"]["highest"] == 800_000


def test_what_holds_no_usage_log_is_a_usage_error(tmp_path: Path) -> None:
    result = tokenweir("verify-ledger", tmp_path)
    assert result.returncode == 2
    assert "holds no usage log" in result.stderr
    assert result.stderr.count("\n") == 1
    assert tokenweir("verify-ledger", tmp_path / "nowhere").returncode == 2
    assert tokenweir("verify-ledger").returncode == 2
