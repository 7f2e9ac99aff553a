"""Reading a request's JSON so that nothing is lost in silence.

Each object of a request is read field by field; ``done`` refuses by path what nobody asked for.
A field that is null counts as absent, which SDKs mean to be the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from extproc.dialects.conversation import Json, UntranslatableError
from extproc.wire.errors import WireError

MAX_ITEMS = 100_000
"""Of one list: messages, parts, tools. Agents send some thousands."""


def read_object(body: bytes) -> Fields:
    """The whole body. Raises ``WireError``; duplicate keys were refused before."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise WireError("The body is not valid JSON.") from None
    if not isinstance(document, dict):
        raise WireError("The body must be a JSON object.")
    return Fields(document, "")


class Fields:
    """One object of a request, and where it is."""

    __slots__ = ("_read", "_values", "path")

    def __init__(self, values: Json, path: str) -> None:
        self._values = values
        self._read: set[str] = set()
        self.path = path

    def at(self, key: str) -> str:
        """The path of a field."""
        return f"{self.path}.{key}" if self.path else key

    def __contains__(self, key: str) -> bool:
        return self._values.get(key) is not None

    def raw(self, key: str) -> Any:
        """Whatever is there; None when absent."""
        self._read.add(key)
        return self._values.get(key)

    def text(self, key: str, default: str = "") -> str:
        """A string. Raises ``WireError``, as all of these do."""
        value = self.raw(key)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.wrong(key, "a string")
        return value

    def needed_text(self, key: str) -> str:
        """A string that must be there."""
        if key not in self:
            raise WireError(f"{self.at(key)} is required.", param=self.at(key))
        return self.text(key)

    def integer(self, key: str) -> int | None:
        """A whole number, or None."""
        value = self.raw(key)
        if value is not None and type(value) is not int:
            raise self.wrong(key, "a whole number")
        return value

    def number(self, key: str) -> float | None:
        """A number, or None."""
        value = self.raw(key)
        if value is None:
            return None
        if type(value) is not int and type(value) is not float:
            raise self.wrong(key, "a number")
        return value

    def boolean(self, key: str) -> bool | None:
        """True, false, or None."""
        value = self.raw(key)
        if value is not None and type(value) is not bool:
            raise self.wrong(key, "true or false")
        return value

    def object(self, key: str) -> Fields | None:
        """A nested object, or None."""
        value = self.raw(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.wrong(key, "an object")
        return Fields(value, self.at(key))

    def json(self, key: str) -> Json | None:
        """A nested object that is passed on as it is, or None."""
        value = self.raw(key)
        if value is not None and not isinstance(value, dict):
            raise self.wrong(key, "an object")
        return value

    def objects(self, key: str) -> Iterator[Fields]:
        """The objects of a list; none when it is absent."""
        for place, value in enumerate(self._list(key)):
            path = f"{self.at(key)}[{place}]"
            if not isinstance(value, dict):
                raise WireError(f"{path} must be an object.", param=path)
            yield Fields(value, path)

    def texts(self, key: str) -> list[str]:
        """A string or a list of strings."""
        value = self.raw(key)
        if isinstance(value, str):
            return [value]
        items = self._list(key)
        if not all(isinstance(item, str) for item in items):
            raise self.wrong(key, "a list of strings")
        return items

    def given(self, keys: Iterable[str]) -> list[str]:
        """Those of the fields that are there, whatever they hold."""
        return [key for key in keys if self.raw(key) is not None]

    def wrong(self, key: str, wanted: str) -> WireError:
        """The error for a value of the wrong type."""
        return WireError(f"{self.at(key)} must be {wanted}.", param=self.at(key))

    def untranslatable(self, key: str, why: str) -> UntranslatableError:
        """The error for a value that no other dialect can say."""
        return UntranslatableError(self.at(key), why)

    def rest(self) -> Json:
        """What nobody has read and is there."""
        return {
            key: value
            for key, value in self._values.items()
            if key not in self._read and value is not None
        }

    def done(self) -> None:
        """Refuses what nobody has read: it would be lost."""
        for key in self.rest():
            raise self.untranslatable(key, "this field cannot be carried to another provider's API")

    def _list(self, key: str) -> list[Any]:
        value = self.raw(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.wrong(key, "a list")
        if len(value) > MAX_ITEMS:
            raise WireError(f"{self.at(key)} has more than {MAX_ITEMS} items.", param=self.at(key))
        return value
