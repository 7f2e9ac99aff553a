"""What OpenAI's legacy completions and embeddings refuse: their shapes, no more."""

from __future__ import annotations

from extproc.demo.asked import Json
from extproc.demo.strict.openai import refused
from extproc.demo.strict.shape import (
    BOOLEAN,
    INTEGER,
    TEXT,
    Misfit,
    anything,
    either,
    list_of,
    map_of,
    number,
    one_of,
    record,
)

MAX_INPUTS = 2_048
MAX_STOPS = 4
_NUMBERS = list_of(INTEGER, least=1)
_COMPLETION = record(
    {"model": TEXT, "prompt": anything},
    {
        "best_of": number(0, 20, whole=True),
        "echo": BOOLEAN,
        "frequency_penalty": number(-2, 2),
        "logit_bias": map_of(number(-100, 100)),
        "logprobs": number(0, 5, whole=True),
        "max_tokens": number(0, whole=True),
        "n": number(1, 128, whole=True),
        "presence_penalty": number(-2, 2),
        "seed": INTEGER,
        "stop": either(TEXT, list_of(TEXT, most=MAX_STOPS)),
        "stream": BOOLEAN,
        "stream_options": record({}, {"include_usage": BOOLEAN, "include_obfuscation": BOOLEAN}),
        "suffix": TEXT,
        "temperature": number(0, 2),
        "top_p": number(0, 1),
        "user": TEXT,
    },
)
_EMBEDDINGS = record(
    {
        "model": TEXT,
        "input": either(TEXT, list_of(either(TEXT, INTEGER, _NUMBERS), least=1, most=MAX_INPUTS)),
    },
    {
        "dimensions": number(1, whole=True),
        "encoding_format": one_of("float", "base64"),
        "user": TEXT,
    },
)


def check_completion(body: Json) -> None:
    """Raises BadRequestError."""
    try:
        _COMPLETION(body, ())
    except Misfit as misfit:
        raise refused(misfit) from misfit


def check_embeddings(body: Json) -> None:
    """Raises BadRequestError."""
    try:
        _EMBEDDINGS(body, ())
    except Misfit as misfit:
        raise refused(misfit) from misfit
