"""Golden files of translation: what callers and providers say, recorded, and what becomes of it.

``tests/dialects/golden/`` holds

- ``requests/<operation>.json``: requests of a caller's API, by case;
- ``answers/<dialect>.json`` and ``errors/<dialect>.json``: whole answers of a target's API;
- ``streams/<dialect>/<case>.sse``: its streams, byte for byte. Bedrock's frames are ``.hex``, each
  under a comment that says what is in it;
- ``pairs/<operation>_to_<dialect>/``: what each of these is translated to.

The first three are written by hand after the providers' documentation. The last is made:

    python tests/support/golden.py

rewrites it, and the change is reviewed as the diff that it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from extproc.core.translated import CALLERS, TARGETS
from extproc.dialects.codec import (
    CallerDialect,
    Context,
    TargetDialect,
    TargetFacts,
    WrittenRequest,
)
from extproc.dialects.conversation import UntranslatableError, Vendor
from extproc.dialects.translation import AnswerTranslator
from extproc.values.dialect import Dialect, Operation
from extproc.wire.errors import WireError

Json = dict[str, Any]

FOLDER = Path(__file__).parents[1] / "dialects" / "golden"
FACTS = {
    Dialect.OPENAI: TargetFacts("gpt-5.1", Vendor.OPENAI, base_path="/v1"),
    Dialect.ANTHROPIC: TargetFacts("claude-haiku-4-5", Vendor.ANTHROPIC),
    Dialect.GEMINI: TargetFacts("gemini-2.5-pro", Vendor.GOOGLE, base_path="/v1beta"),
    Dialect.BEDROCK: TargetFacts("anthropic.claude-haiku-4-5", Vendor.ANTHROPIC),
}
SSE, EVENT_STREAM = "text/event-stream", "application/vnd.amazon.eventstream"


class Pair(NamedTuple):
    """A caller's API, and another that its requests are translated for."""

    operation: Operation
    dialect: Dialect

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.operation.name.lower()}_to_{self.dialect}"

    @property
    def caller(self) -> CallerDialect:
        """Who asks."""
        return CALLERS[self.operation]

    @property
    def target(self) -> TargetDialect:
        """Who answers."""
        return TARGETS[self.dialect]

    @property
    def context(self) -> Context:
        """Of every translation here."""
        vendor = FACTS[self.dialect].vendor
        return Context("req1", 1_790_000_000, "intent-fast", vendor=vendor)

    def asked(self, body: Json) -> WrittenRequest:
        """A caller's request, as the target takes it."""
        conversation = self.caller.read_request(dumped(body))
        return self.target.write_request(conversation, FACTS[self.dialect])

    def answer(self, body: object, status: int = 200, name: str = "") -> bytes:
        """A whole answer, as the caller reads it."""
        translator = AnswerTranslator(self.caller, self.target, self.context, stream=False)
        translator.on_headers(status, "application/json", name)
        return translator.on_body(dumped(body), end=True)

    def streamed(self) -> AnswerTranslator:
        """For one stream."""
        translator = AnswerTranslator(self.caller, self.target, self.context, stream=True)
        translator.on_headers(200, EVENT_STREAM if self.dialect is Dialect.BEDROCK else SSE)
        return translator


PAIRS = [
    Pair(operation, dialect)
    for operation in CALLERS
    for dialect in FACTS
    if operation.dialect is not dialect or operation is Operation.RESPONSES
]
"""All that the gateway translates: where both sides speak the same API, the body passes."""


def dumped(body: object) -> bytes:
    """A recorded body as bytes; what is no JSON is recorded as text."""
    return body.encode() if isinstance(body, str) else json.dumps(body).encode()


def recorded(kind: str, name: str) -> Json:
    """Recorded requests, answers or errors of an API, by case."""
    read: Json = json.loads((FOLDER / kind / f"{name}.json").read_text())
    return read


def requests(operation: Operation) -> Json:
    """Recorded requests of a caller."""
    return recorded("requests", operation.name.lower())


def events(dialect: Dialect, case: str) -> list[bytes]:
    """A recorded stream, cut behind each of its events."""
    folder = FOLDER / "streams" / dialect
    if dialect is Dialect.BEDROCK:
        return [bytes.fromhex(code) for _, code in frames((folder / f"{case}.hex").read_text())]
    data = (folder / f"{case}.sse").read_bytes()
    end = b"\r\n\r\n" if b"\r\n\r\n" in data else b"\n\n"
    return [event + end for event in data.split(end)[:-1]]


def frames(text: str) -> Iterator[tuple[str, str]]:
    """What a file of hex says of each of its frames, and the frame."""
    for part in text.split("# ")[1:]:
        said, _, code = part.partition("\n")
        yield said, "".join(code.split())


def cases(dialect: Dialect) -> list[str]:
    """The recorded streams of a target."""
    return sorted(path.stem for path in (FOLDER / "streams" / dialect).iterdir())


STREAMS = [(pair, case) for pair in PAIRS for case in cases(pair.dialect)]


def made(pair: Pair) -> dict[str, bytes]:
    """The files of a pair, by name."""
    sent = {case: _sent(pair, body) for case, body in requests(pair.operation).items()}
    answers = {
        case: json.loads(pair.answer(body))
        for case, body in recorded("answers", pair.dialect).items()
    }
    errors = {
        case: json.loads(pair.answer(one["body"], one["status"], one["name"]))
        for case, one in recorded("errors", pair.dialect).items()
    }
    streams = b"".join(
        b"===== %b =====\n%b" % (case.encode(), _streamed(pair, case))
        for case in cases(pair.dialect)
    )
    return {
        "requests.json": _pretty(sent),
        "answers.json": _pretty(answers),
        "errors.json": _pretty(errors),
        "streams.sse": streams,
    }


def _sent(pair: Pair, body: Json) -> Json:
    try:
        written = pair.asked(body)
    except UntranslatableError as error:
        return {"refused": error.param, "why": error.why}
    except WireError as error:
        return {"refused": error.refusal.param, "why": error.refusal.message}
    return {
        "path": written.path,
        "headers": dict(written.headers),
        "dropped": list(written.dropped),
        "body": json.loads(written.body),
    }


def _streamed(pair: Pair, case: str) -> bytes:
    translator = pair.streamed()
    pieces = [translator.on_body(event, end=False) for event in events(pair.dialect, case)]
    return b"".join(pieces) + translator.on_body(b"", end=True)


def _pretty(document: object) -> bytes:
    return json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n"


def write() -> None:
    """Writes what is made."""
    for pair in PAIRS:
        folder = FOLDER / "pairs" / pair.name
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in made(pair).items():
            (folder / name).write_bytes(data)


if __name__ == "__main__":
    write()
