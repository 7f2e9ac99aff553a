"""What OpenAI's two APIs have in common: how they refuse, and which models think."""

from __future__ import annotations

import re
from typing import Any

from extproc.demo.answer import BadRequestError
from extproc.demo.asked import Json
from extproc.demo.strict.schemas import open_object
from extproc.demo.strict.shape import Misfit, Path, bracketed

NAME_PATTERN = "[a-zA-Z0-9_-]+"
MAX_NAME_CHARACTERS = 64
MAX_TOOLS = 128

THINKS = re.compile(r"(?:o\d|gpt-[5-9])")
"""Models that take ``reasoning``."""
FIXED_SAMPLING = re.compile(r"(?:o\d|gpt-5(?!\.))")
"""Models that take no sampling parameters; from gpt-5.1 on they do where they do not think."""

_LENGTH = re.compile(r"at (most|least) (\d+) (characters|items)")


def refused(misfit: Misfit) -> BadRequestError:
    """A misfit in OpenAI's words, with its code."""
    where, value = bracketed(misfit.path), misfit.value
    if misfit.why == "unknown":
        return BadRequestError(
            f"Unknown parameter: '{where}'.", code="unknown_parameter", param=where
        )
    if misfit.why == "missing":
        code = "missing_required_parameter"
        return BadRequestError(f"Missing required parameter: '{where}'.", code=code, param=where)
    if misfit.why == "type":
        message = (
            f"Invalid type for '{where}': expected {_article(misfit.wanted)}, but got "
            f"{_article(_kind(value))} instead."
        )
        return BadRequestError(message, code="invalid_type", param=where)
    if length := _LENGTH.fullmatch(misfit.wanted):
        return _wrong_length(where, value, *length.groups())
    if misfit.wanted.startswith("pattern"):
        message = (
            f"Invalid '{where}': string does not match pattern. Expected a string that matches the "
            f"{misfit.wanted}."
        )
        return BadRequestError(message, code="invalid_value", param=where)
    if misfit.wanted[:2] in (">=", "<="):
        side, code = (
            ("below minimum", "integer_below_min_value")
            if misfit.wanted[0] == ">"
            else ("above maximum", "decimal_above_max_value")
        )
        message = f"Invalid '{where}': {side} value. Expected a value {misfit.wanted}."
        return BadRequestError(message, code=code, param=where)
    message = f"Invalid value: '{value}'. Supported values are: {misfit.wanted}."
    return BadRequestError(message, code="invalid_value", param=where)


def _wrong_length(where: str, value: Any, bound: str, length: str, _unit: str) -> BadRequestError:
    kind, said = ("string", "string") if isinstance(value, str) else ("array", "array")
    wrong = "too long" if bound == "most" else "too short"
    if not value:
        wrong = f"empty {kind}"
    name = "maximum" if bound == "most" else "minimum"
    message = (
        f"Invalid '{where}': {kind if value else ''} {wrong}. Expected {_article(said)} with "
        f"{name} length {length}, but got one with length {len(value)} instead."
    )
    code = f"{said}_above_max_length" if bound == "most" else f"{said}_below_min_length"
    if not value:
        code = f"empty_{said}"
    return BadRequestError(" ".join(message.split()), code=code, param=where)


def unsupported_parameter(name: str, instead: str = "") -> BadRequestError:
    """A field that this model does not take."""
    advice = f" Use '{instead}' instead." if instead else ""
    message = f"Unsupported parameter: '{name}' is not supported with this model.{advice}"
    return BadRequestError(message, code="unsupported_parameter", param=name)


_EFFORTS = (
    (re.compile(r"gpt-5[^/]*-chat"), ()),
    (re.compile(r"gpt-5(?:\.1)?-pro"), ("high",)),
    (re.compile(r"gpt-5\.\d+-pro"), ("medium", "high", "xhigh")),
    (re.compile(r"gpt-5[^/]*-codex-max|gpt-5\.[2-9]-codex"), ("low", "medium", "high", "xhigh")),
    (re.compile(r"gpt-5[^/]*-codex|o\d"), ("low", "medium", "high")),
    (re.compile(r"gpt-5\.1"), ("none", "low", "medium", "high")),
    (re.compile(r"gpt-[5-9]\.\d"), ("none", "low", "medium", "high", "xhigh")),
    (THINKS, ("minimal", "low", "medium", "high")),
)
"""The efforts of each family of models; the first that matches."""
ADAPTS_SAMPLING = re.compile(r"gpt-5\.(\d+)")
"""Models that take sampling parameters where they do not think; which they do by default from 5.6
on."""
THINKS_UNASKED_FROM = 6


def check_effort(model: str, effort: str | None, param: str) -> None:
    """Raises BadRequestError for an effort that the model does not have."""
    if effort is None:
        return
    known = next((efforts for family, efforts in _EFFORTS if family.match(model)), ())
    if not known:
        raise unsupported_parameter(param)
    if effort not in known:
        named = ", ".join(f"'{one}'" for one in known)
        raise BadRequestError(
            f"Unsupported value: '{param}' does not support '{effort}' with this model. Supported "
            f"values are: {named}.",
            code="unsupported_value",
            param=param,
        )


def check_sampling(model: str, effort: str | None, body: Json) -> None:
    """Raises BadRequestError for sampling parameters of a model that thinks this time."""
    newer = ADAPTS_SAMPLING.match(model)
    if newer is None:
        return
    unasked = "medium" if int(newer[1]) >= THINKS_UNASKED_FROM else "none"
    for name in ("temperature", "top_p"):
        if (effort or unasked) != "none" and body.get(name) not in (None, 1):
            raise unsupported_parameter(name)


def check_function(path: Path, function: Json) -> None:
    """Raises BadRequestError for a schema that a function may not have."""
    where, name = bracketed((*path, "parameters")), function["name"]
    schema = function.get("parameters")
    if schema is not None and schema.get("type") != "object":
        raise BadRequestError(
            f"Invalid schema for function '{name}': schema must be a JSON Schema of "
            f"'type: \"object\"', got 'type: \"{schema.get('type')}\"'.",
            code="invalid_function_parameters",
            param=where,
        )
    if function.get("strict"):
        _check_strict(f"function '{name}'", schema, where, "invalid_function_parameters")


def check_format(path: Path, wanted: Json, words: str) -> None:
    """Raises BadRequestError for a strict schema that is not, and for JSON mode where nothing in
    ``words`` speaks of JSON."""
    if wanted.get("type") == "json_object" and "json" not in words.lower():
        raise BadRequestError(
            "'messages' must contain the word 'json' in some form, to use "
            f"'{bracketed(path)}' of type 'json_object'.",
            param=bracketed(path),
        )
    if wanted.get("strict"):
        name = f"response_format '{wanted['name']}'"
        _check_strict(name, wanted.get("schema"), bracketed(path), "invalid_json_schema")


def _check_strict(what: str, schema: Any, param: str, code: str) -> None:
    found = open_object(schema, all_required=True)
    if found is None:
        return
    problem = (
        "'required' is required to be supplied and to be an array including every key in "
        f"properties. Missing '{found.missing}'."
        if found.missing
        else "'additionalProperties' is required to be supplied and to be false."
    )
    message = f"Invalid schema for {what}: In context={found.context}, {problem}"
    raise BadRequestError(message, code=code, param=param)


def _article(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aio" else f"a {kind}"


def _kind(value: Any) -> str:
    names = {str: "string", bool: "boolean", int: "integer", list: "array", dict: "object"}
    return names.get(type(value), "null" if value is None else "number")
