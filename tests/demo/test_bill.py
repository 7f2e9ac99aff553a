from __future__ import annotations

import pytest

from extproc.demo.bill import Bill
from extproc.demo.faults import FaultBook, Faults, faults_from_json
from extproc.demo.prices import DEAREST, PRICES, Price, cost_micro_usd


def _line(model: str, input_tokens: int, output_tokens: int) -> dict[str, object]:
    counts = {"input_tokens": input_tokens, "output_tokens": output_tokens}
    return {"model": model, **counts, "cached_tokens": 0, "cache_write_tokens": 0}


def test_cost_rounds_up_once() -> None:
    price = Price(1, 1, 1, 1)
    assert cost_micro_usd(price, Price(1, 1, 1, 1)) == 1
    assert cost_micro_usd(price, Price(0, 0, 0, 0)) == 0
    assert cost_micro_usd(price, Price(1_000_000, 1, 0, 0)) == 2


def test_long_context_bills_the_whole_request_dearer() -> None:
    bill = Bill()
    assert bill.price("claude-sonnet-4-5", 200_000).input == 3_000_000
    assert bill.price("claude-sonnet-4-5", 200_001).input == 6_000_000
    assert bill.price("mystery", 1) == DEAREST
    assert all(price.output <= DEAREST.output for price in PRICES.values())


def test_since_survives_clearing() -> None:
    bill = Bill()
    for tokens in range(3):
        bill.add(_line("gpt-4o", tokens, tokens))
    assert [line["n"] for line in bill.since(1)] == [2, 3]
    bill.clear()
    assert (bill.since(0), bill.requests, bill.total_micro_usd) == ([], 0, 0)


def test_rate_and_first_n_choose_requests() -> None:
    book = FaultBook()
    book.set("p", Faults(status=500, first_n=2))
    assert [book.of_next_request("p").status for _ in range(3)] == [500, 500, 0]
    book.set("p", Faults(status=500, rate=0.5))
    failed = sum(book.of_next_request("p").status == 500 for _ in range(1000))
    assert 400 < failed < 600


@pytest.mark.parametrize(
    "document", [[], {"nonsense": 1}, {"status": "500"}, {"hang": "x"}, {"gzip": 1}]
)
def test_faults_are_strict(document: object) -> None:
    with pytest.raises(ValueError, match=r"faults|unknown|status|hang|gzip"):
        faults_from_json(document)
