"""What the demo provider can be told to do wrong, per provider or per request."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from extproc.demo.parts import AnswerKind
from extproc.demo.tokens import TokenizerMode

Hang = Literal["", "before_headers", "after_headers", "mid_stream"]
Lie = Literal[
    "",
    "negative",
    "huge",
    "missing_field",
    "string",
    "float",
    "zero",
    "decreasing",
    "over_max_tokens",
    "twice",
]

HEADER_PREFIX = "x-demo-"

_CHOICES: dict[str, tuple[str, ...]] = {
    "hang": get_args(Hang),
    "falsify_usage": get_args(Lie),
    "tokenizer": get_args(TokenizerMode),
    "answer": get_args(AnswerKind),
}


@dataclass(frozen=True, slots=True)
class Faults:
    """One set of faults; the default is a provider that works.

    ``first_n`` (0: all) and ``rate`` say which requests it applies to. ``output_tokens`` below 0 is
    the default length. ``retry_after`` is sent as it is, sense or nonsense. ``strict`` refuses what
    the real API would; ``aws_secret`` is the key that Bedrock's calls must be signed with. ``keys``
    (comma between) are the only ones that are taken; ``echo_key`` shows a caller's key in every
    answer's headers, and in the message of errors.
    """

    first_n: int = 0
    rate: float = 1.0
    status: int = 0
    retry_after: str = ""
    delay_ms: int = 0
    hang: Hang = ""
    cut_after_events: int = -1
    chunk_delay_ms: int = 0
    error_200: bool = False
    html_error: bool = False
    redirect: bool = False
    empty: bool = False
    gzip: bool = False
    split_bytes: int = 0
    crlf: bool = False
    comments: bool = False
    no_done: bool = False
    omit_usage: bool = False
    falsify_usage: Lie = ""
    output_tokens: int = -1
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    hidden_template_tokens: int = 8
    tokenizer: TokenizerMode = "real"
    bill_after_disconnect: bool = False
    keep_bodies: bool = False
    answer: AnswerKind = "text"
    strict: bool = False
    aws_secret: str = ""
    keys: str = ""
    echo_key: bool = False


_FIELDS = {field.name: field for field in dataclasses.fields(Faults)}
WELL = Faults()


def faults_from_json(document: Any, base: Faults = WELL) -> Faults:
    """``base`` with the named faults changed; ValueError names an unknown or ill-typed one."""
    if not isinstance(document, dict):
        raise ValueError("faults are a JSON object")
    return dataclasses.replace(base, **{name: _checked(name, document[name]) for name in document})


def faults_from_headers(headers: Mapping[str, str], base: Faults) -> Faults:
    """``base`` with what the request's ``x-demo-*`` headers ask for; ValueError as above."""
    asked: dict[str, Any] = {}
    for header, text in headers.items():
        if header.lower().startswith(HEADER_PREFIX):
            name = header.lower().removeprefix(HEADER_PREFIX).replace("-", "_")
            asked[name] = _parsed(name, text)
    return faults_from_json(asked, base) if asked else base


@dataclass(slots=True)
class FaultBook:
    """The faults in force, by provider."""

    _faults: dict[str, Faults] = field(default_factory=dict)
    _seen: dict[str, int] = field(default_factory=dict)
    # A fixed seed: a test that uses `rate` sees the same requests fail every time.
    _random: random.Random = field(default_factory=lambda: random.Random(1))  # noqa: S311

    def set(self, provider: str, faults: Faults) -> None:
        """These faults from now on; ``first_n`` starts counting here."""
        self._faults[provider] = faults
        self._seen[provider] = 0

    def clear(self) -> None:
        """Every provider is well again."""
        self._faults.clear()
        self._seen.clear()

    def of_next_request(self, provider: str) -> Faults:
        """What the next request to this provider meets."""
        faults = self._faults.get(provider)
        if faults is None:
            return WELL
        self._seen[provider] += 1
        if faults.first_n and self._seen[provider] > faults.first_n:
            return WELL
        if faults.rate < 1.0 and self._random.random() >= faults.rate:
            return WELL
        return faults


def _parsed(name: str, text: str) -> Any:
    """A header's value as JSON, or as the plain text that most are."""
    if name == "retry_after":
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _checked(name: str, value: Any) -> Any:
    """The value, in the type of the field; ValueError if it does not fit."""
    if name not in _FIELDS:
        raise ValueError(f"unknown fault {name!r}")
    if name in _CHOICES:
        if value not in _CHOICES[name]:
            raise ValueError(f"{name} is one of {_CHOICES[name]}, not {value!r}")
        return value
    default = _FIELDS[name].default
    if isinstance(default, str):
        return str(value)
    if isinstance(default, float) and isinstance(value, int | float):
        return float(value)
    if type(value) is not type(default):
        raise ValueError(f"{name} is {type(default).__name__}, not {value!r}")
    return value
