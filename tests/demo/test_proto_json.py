from __future__ import annotations

from extproc.demo.proto_json import in_camel_case


def test_both_spellings_are_one_but_what_is_the_callers_own_stays() -> None:
    body = {
        "system_instruction": {"parts": [{"text": "a_b"}]},
        "generationConfig": {"max_output_tokens": 3, "response_json_schema": {"a_b": 1}},
        "contents": [{"parts": [{"function_call": {"name": "f", "args": {"a_b": {"c_d": 1}}}}]}],
    }
    assert in_camel_case(body) == {
        "systemInstruction": {"parts": [{"text": "a_b"}]},
        "generationConfig": {"maxOutputTokens": 3, "responseJsonSchema": {"a_b": 1}},
        "contents": [{"parts": [{"functionCall": {"name": "f", "args": {"a_b": {"c_d": 1}}}}]}],
    }
