"""Attempts at targets that speak another API than their caller: what can be asked of them, the
request as they take it, and the answer as the caller reads it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial

from extproc.core.gate import Attempt
from extproc.core.routing import Chain
from extproc.dialects.anthropic.dialect import AnthropicMessages
from extproc.dialects.bedrock.dialect import Converse
from extproc.dialects.codec import (
    CallerDialect,
    Context,
    TargetDialect,
    TargetFacts,
    WrittenRequest,
)
from extproc.dialects.conversation import Conversation, UntranslatableError, Vendor
from extproc.dialects.gemini.dialect import Gemini
from extproc.dialects.openai_chat.dialect import OpenAiChat
from extproc.dialects.openai_responses.dialect import OpenAiResponses
from extproc.dialects.translation import AnswerTranslator
from extproc.policy.snapshot import Target
from extproc.values.dialect import Dialect, Operation
from extproc.values.refusal import Refusal, RefusalCode
from extproc.wire.errors import WireError
from extproc.wire.inference_request import InferenceRequest
from extproc.wire.reasoning import Edits
from extproc.wire.usage import Reported
from extproc.wire.vendor_change import MARK, change_of

CALLERS: dict[Operation, CallerDialect] = {
    Operation.CHAT_COMPLETIONS: OpenAiChat(),
    Operation.RESPONSES: OpenAiResponses(),
    Operation.MESSAGES: AnthropicMessages(),
}
TARGETS: dict[Dialect, TargetDialect] = {
    Dialect.OPENAI: OpenAiChat(),
    Dialect.AZURE_OPENAI: OpenAiChat(),
    Dialect.ANTHROPIC: AnthropicMessages(),
    Dialect.GEMINI: Gemini(),
    Dialect.BEDROCK: Converse(),
}
"""OpenAI's targets are asked in chat completions: every server that speaks its API knows those."""

_VENDORS = (
    (re.compile(r"(?:.*[./])?claude-"), Vendor.ANTHROPIC),
    (re.compile(r"(?:.*/)?(?:gpt-|chatgpt-|o[1-9])"), Vendor.OPENAI),
    (re.compile(r"(?:.*/)?gemini-"), Vendor.GOOGLE),
)
_READ_BY_PROVIDERS = ("anthropic-beta",)
_MAX_SAID_CHARACTERS = 256
"""Of the fields that an answer's header says were left out."""


def without_unsayable(
    request: InferenceRequest, chain: Chain
) -> tuple[InferenceRequest, Chain, Refusal | None]:
    """The request, knowing how long it becomes (``written_bytes``), and the chain without targets
    in whose API it cannot be said; where none is left, the refusal names the caller's field.

    Asked of the translators themselves, so that the two never differ; only requests whose model has
    such targets pay for it.
    """
    said = _Sayable(request)
    mute = [target for target in chain.targets if not said.at(target)]
    request = said.request
    if not mute:
        return request, chain, None
    rest = chain.without(mute)
    return request, rest, None if rest.targets else said.refusal


class _Sayable:
    """Tries one request on several targets."""

    def __init__(self, request: InferenceRequest) -> None:
        self.request = request
        self._conversation: Conversation | None = None
        self.refusal: Refusal | None = None
        """Why the first target that was asked cannot take it."""

    def at(self, target: Target) -> bool:
        """Whether the target can take it."""
        operation = self.request.operation
        if operation not in target.translated:
            return True
        try:
            if self._conversation is None:
                body = self.request.body.body
                self._conversation = CALLERS[operation].read_request(body)
            dialect = TARGETS[target.endpoints[operation].dialect]
            written = dialect.write_request(self._conversation, _facts(target, operation, ()))
        except (UntranslatableError, WireError) as error:
            self.refusal = self.refusal or refusal_of(error)
            return False
        longest = max(self.request.body_bytes, self.request.written_bytes)
        if len(written.body) > longest:
            self.request = self.request._replace(written_bytes=len(written.body))
        return True


def refusal_of(error: UntranslatableError | WireError) -> Refusal:
    """What the caller is told."""
    if isinstance(error, WireError):
        return error.refusal
    message = f"No target can take {error.param}: {error.why}."
    return Refusal(RefusalCode.INVALID_REQUEST, message, param=error.param)


def vendor_of(target: Target) -> Vendor:
    """Who made the model, wherever it runs: whose signatures it takes back."""
    for pattern, vendor in _VENDORS:
        if pattern.match(target.canonical_model):
            return vendor
    return Vendor.OTHER


def edits_at(
    request: InferenceRequest, target: Target, edits: Edits | None = None
) -> tuple[Edits | None, tuple[str, ...]]:
    """What of the request's body a target must be sent otherwise than it came: ``edits`` and, where
    it speaks the caller's own API, what another vendor left in the conversation; and what is left
    out with that, for people."""
    if request.operation in target.translated or request.body.body.find(MARK) < 0:
        return edits, ()
    change = change_of(request)
    return {**(edits or {}), **change.edits}, change.dropped


def provider_headers(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Of a caller's headers, those that a provider may read."""
    return tuple((name, headers[name]) for name in _READ_BY_PROVIDERS if name in headers)


class Translation:
    """One attempt's: its request, and its answer as it arrives."""

    __slots__ = ("_answer", "_attempt", "_endpoint", "_unread", "another_reader", "request")

    def __init__(
        self,
        attempt: Attempt,
        operation: Operation,
        body: bytes,
        context: Context,
        headers: tuple[tuple[str, str], ...],
    ) -> None:
        """``body`` as the caller's API has it. Raises ``UntranslatableError`` and ``WireError``."""
        target = attempt.target
        self._endpoint = target.endpoints[operation]
        caller, dialect = CALLERS[operation], TARGETS[self._endpoint.dialect]
        conversation = caller.read_request(body)
        self.request: WrittenRequest = dialect.write_request(
            conversation, _facts(target, operation, headers)
        )
        set_headers = {name for name, _ in self.request.headers}
        self._unread = [name for name, _ in headers if name not in set_headers]
        self._attempt = attempt
        attempt.translated = True
        context = context._replace(vendor=vendor_of(target), known_as=conversation.known_as)
        stream = conversation.stream
        self.another_reader = partial(AnswerTranslator, caller, dialect, context, stream=stream)
        """Makes who reads the answer too, and keeps nothing of it."""
        self._answer = self.another_reader()

    def written_body(self) -> bytes:
        """The request's body, to be sent; it is not kept with the answer's translation."""
        body = self.request.body
        self.request = self.request._replace(body=b"")
        return body

    @property
    def path(self) -> str:
        """With query string."""
        endpoint = self._endpoint
        if endpoint.api_version:
            return endpoint.path(Operation.CHAT_COMPLETIONS, self._attempt.target.model)
        return self.request.path

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """To set beside path, host and length."""
        return (*self.request.headers, ("content-type", "application/json"))

    @property
    def dropped(self) -> str:
        """What was left out of the request because the target has no equal, for people."""
        left_out = dict.fromkeys((*self.request.dropped, *self._unread))
        return ",".join(left_out)[:_MAX_SAID_CHARACTERS]

    @property
    def is_whole(self) -> bool:
        """Known with the headers: nothing goes on before the answer's end."""
        return self._answer.is_whole

    def on_headers(self, status: int, content_type: str, error_name: str = "") -> str:
        """The content type that the caller gets."""
        self._attempt.answered = status < 300
        return self._answer.on_headers(status, content_type, error_name)

    def on_body(self, data: bytes, *, end: bool) -> bytes:
        """The next bytes for the caller; notes what the provider reports it used. Raises
        ``WireError`` and ``StreamError``."""
        answer = self._answer
        written = answer.on_body(data, end=end)
        if answer.complete and answer.usage is not None:
            # A report of no prompt is a report that failed.
            self._attempt.reported = Reported(answer.usage, True, answer.usage.input_tokens == 0)
        return written


def _facts(
    target: Target, operation: Operation, headers: tuple[tuple[str, str], ...]
) -> TargetFacts:
    endpoint = target.endpoints[operation]
    return TargetFacts(
        target.model,
        vendor_of(target),
        target.price.max_output_tokens,
        endpoint.base_path,
        headers=headers,
    )
