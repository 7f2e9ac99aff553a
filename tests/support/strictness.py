"""A request that is right, and one change that makes it wrong."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from extproc.demo.answer import BadRequestError

Json = dict[str, Any]


def changed(good: Json, change: Callable[[Json], Any]) -> Json:
    """A copy of the request with the change made."""
    body = copy.deepcopy(good)
    change(body)
    return body


def refusal_of(check: Callable[[Json], None], body: Json) -> BadRequestError:
    """What the check says against the body."""
    with pytest.raises(BadRequestError) as caught:
        check(body)
    return caught.value


def unknown_fields(check: Callable[[Json], None], good: Json, names: Iterable[str]) -> set[str]:
    """Which of these top-level fields the check does not know, whatever is in them."""
    unknown = set()
    for name in names:
        try:
            check({**good, name: good.get(name)})
        except BadRequestError as problem:
            said = str(problem)
            if name in said and any(words in said for words in _UNKNOWN):
                unknown.add(name)
    return unknown


_UNKNOWN = ("Extra inputs", "Unrecognized request argument", "Unknown parameter", "extraneous key")
