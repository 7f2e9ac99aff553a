from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.demo import tokens
from extproc.demo.tokens import Tokenizer, prompt_text

JSON = st.recursive(
    st.text() | st.integers() | st.none(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
TOKENIZER = Tokenizer()


@given(JSON, st.booleans())
def test_a_prompt_never_has_more_tokens_than_its_body_has_bytes(value: Any, ascii_: bool) -> None:
    body = {"messages": value, "model": "m"}
    raw = json.dumps(body, ensure_ascii=ascii_).encode("utf-8", "replace")
    assert TOKENIZER.count_prompt(body, raw, "real") <= len(raw)
    assert TOKENIZER.count_prompt(body, raw, "byte") == len(raw)


def test_the_encoding_is_the_real_one() -> None:
    assert TOKENIZER.name == "o200k_base", "pip install bpe-openai==0.1.4"
    assert TOKENIZER.count_text("hello world") == 2


def test_long_prompts_are_counted_by_a_sample() -> None:
    line = "def reserve(self, amounts: Amounts) -> Outcome:\n"
    per_line = TOKENIZER.count_text(line * 100) / 100
    assert TOKENIZER.count_text(line * 20_000) == pytest.approx(20_000 * per_line, rel=0.01)
    assert TOKENIZER.count_text("\u00e9" * 200_000) <= 400_000


def test_without_the_encoding_length_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_load_encoding", lambda: None)
    tokenizer = Tokenizer()
    assert "not installed" in tokenizer.name
    assert tokenizer.count_text("x" * 36) == 10


def test_prompt_text_reads_what_a_model_reads_at_any_depth() -> None:
    deep: Any = "end"
    for _ in range(100_000):
        deep = [deep]
    assert prompt_text({"messages": deep, "system": "s", "model": "m"}) == "s\nend"
