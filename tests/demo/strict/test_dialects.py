from __future__ import annotations

import pytest
from demo_provider import MESSAGES

from extproc.demo.answer import BadRequestError
from extproc.demo.operations import OPERATIONS, Operation
from extproc.demo.strict.dialects import check_strictly

PARTS = [{"text": "hi"}]
GOOD = {
    "chat/completions": {"model": "m", "messages": MESSAGES},
    "completions": {"model": "m", "prompt": "hi"},
    "responses": {"model": "m", "input": "hi"},
    "embeddings": {"model": "m", "input": "hi"},
    "messages": {"model": "m", "messages": MESSAGES, "max_tokens": 5},
    "generateContent": {"contents": [{"parts": PARTS}]},
    "streamGenerateContent": {"contents": [{"parts": PARTS}]},
    "converse": {"messages": [{"role": "user", "content": PARTS}]},
    "converse-stream": {"messages": [{"role": "user", "content": PARTS}]},
}


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.path)
def test_every_operation_has_rules(operation: Operation) -> None:
    good = GOOD[operation.path]
    check_strictly(operation.dialect, operation.path, good, "m", {})
    with pytest.raises(BadRequestError, match="frob"):
        check_strictly(operation.dialect, operation.path, {**good, "frob": 1}, "m", {})


def test_a_beta_header_lets_beta_fields_through() -> None:
    body = {**GOOD["messages"], "context_management": {}}
    check_strictly("anthropic", "messages", body, "", {"anthropic-beta": "x"})
    with pytest.raises(BadRequestError, match="context_management"):
        check_strictly("anthropic", "messages", body, "", {})
