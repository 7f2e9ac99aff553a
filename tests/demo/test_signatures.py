from __future__ import annotations

from extproc.demo.signatures import call_text, is_sealed, is_signed, sealed, sign


def test_a_signature_is_of_one_text_and_one_vendor() -> None:
    signature = sign("anthropic", "a thought")
    assert is_signed("anthropic", "a thought", signature)
    assert not is_signed("anthropic", "another", signature)
    assert not is_signed("google", "a thought", signature)
    assert not is_signed("anthropic", "a thought", "")


def test_a_sealed_thought_holds_its_own_signature() -> None:
    data = sealed("openai", "a thought")
    assert is_sealed("openai", data)
    assert not is_sealed("anthropic", data)
    assert not is_sealed("openai", data[:-4] + "AAAA")
    assert not is_sealed("openai", "not base64!")
    assert not is_sealed("openai", "")


def test_the_arguments_of_a_call_are_the_same_in_any_order() -> None:
    assert call_text("f", {"a": 1, "b": 2}) == call_text("f", {"b": 2, "a": 1})
    assert call_text("f", {"a": 1}) != call_text("f", {"a": 2})
