"""A conversation as every dialect can tell it: what a translated request is read into.

The model holds the union of what the dialects can say, not what they have in common. A dialect that
cannot say something that is here refuses the request (``UntranslatableError``) or, where leaving it
out changes no answer, names it in ``Conversation.dropped``: nothing is lost in silence.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

Json = dict[str, Any]


class UntranslatableError(Exception):
    """Something of the request has no equal in the target's dialect: a 400 for the caller."""

    def __init__(self, param: str, why: str) -> None:
        super().__init__(f"{param}: {why}")
        self.param = param
        """The field as the caller wrote it, e.g. ``messages[2].content[0]``."""
        self.why = why
        """For people; holds no bytes of the request."""


class Role(StrEnum):
    """Who speaks. Instructions of the operator are ``Conversation.system``."""

    USER = "user"
    ASSISTANT = "assistant"


class Vendor(StrEnum):
    """Who signs thinking. A signature is worth something to its own vendor only."""

    ANTHROPIC = "anthropic"
    """Also Claude on Bedrock and Vertex: they accept each other's signatures."""
    OPENAI = "openai"
    GOOGLE = "google"
    OTHER = "other"


@dataclass(slots=True, frozen=True)
class CacheMark:
    """The prompt up to here may be cached by the provider (Anthropic ``cache_control``, Bedrock
    ``cachePoint``). Others cache by themselves, so for them it is left out and nothing changes."""

    ttl: str = ""
    """``5m``, ``1h``, or empty for the provider's own."""


@dataclass(slots=True)
class Text:
    """Plain text."""

    text: str
    cache: CacheMark | None = None


@dataclass(slots=True)
class Media:
    """An image, a document (PDF, plain text) or audio: inline, by URL, or by provider file id."""

    kind: str
    """``image``, ``document`` or ``audio``."""
    media_type: str
    """E.g. ``image/png``; empty when only a URL is known."""
    data: str = ""
    """Base64, as it came; empty when by reference."""
    text: str = ""
    """A plain text document's words, instead of ``data``."""
    url: str = ""
    file_id: str = ""
    """An id in the caller's provider account: translatable to the same vendor only."""
    name: str = ""
    detail: str = ""
    """OpenAI's ``low``, ``high``, ``auto``."""
    cache: CacheMark | None = None

    @property
    def words(self) -> str:
        """A plain text document as text, under its name."""
        return f"{self.name}\n\n{self.text}" if self.name else self.text


@dataclass(slots=True)
class Thinking:
    """What the model thought, as it must be given back to the vendor that wrote it."""

    text: str
    signature: str = ""
    """Signed (Anthropic), encrypted (OpenAI reasoning item) or a thought signature (Google)."""
    vendor: Vendor = Vendor.OTHER
    redacted: bool = False
    """``signature`` is all there is: the text is withheld."""
    item_id: str = ""
    """OpenAI Responses: the reasoning item's id."""


@dataclass(slots=True)
class ToolCall:
    """The model asks the caller to run a tool."""

    call_id: str
    name: str
    arguments: str
    """JSON text exactly as the model wrote it; ``{}`` when it wrote nothing."""
    signature: str = ""
    """Google: the thought signature that belongs to this call."""
    cache: CacheMark | None = None


@dataclass(slots=True)
class ToolResult:
    """What a tool answered. ``parts`` are texts and media, images included."""

    call_id: str
    parts: list[Text | Media]
    is_error: bool = False
    name: str = ""
    """The tool's name, found from the call it answers: Google wants it."""
    cache: CacheMark | None = None


@dataclass(slots=True)
class Refused:
    """The assistant refused, in words (OpenAI's ``refusal``)."""

    text: str


Part = Text | Media | Thinking | ToolCall | ToolResult | Refused


@dataclass(slots=True)
class Turn:
    """Consecutive parts of one speaker, in order. Readers merge neighbours of the same role: some
    dialects demand alternation."""

    role: Role
    parts: list[Part]


@dataclass(slots=True)
class Tool:
    """A tool that the caller runs."""

    name: str
    description: str
    schema: Json
    """JSON Schema of the arguments, as the caller wrote it."""
    strict: bool | None = None
    cache: CacheMark | None = None


@dataclass(slots=True, frozen=True)
class KnownAs:
    """A tool that the caller's API knows in a form or by a name of its own, where every other knows
    a function: a call of it is told to the caller in that form."""

    kind: str
    """``function`` (in a namespace, or with a name that is too long elsewhere), ``custom`` or
    ``tool_search`` (OpenAI's Responses API)."""
    name: str
    namespace: str = ""


@dataclass(slots=True, frozen=True)
class ToolChoice:
    """Which tool the model may or must call."""

    mode: str
    """``auto``, ``none``, ``required`` (any), or ``named``."""
    name: str = ""


JSON_ONLY = "Answer with one valid JSON object and nothing else."
"""JSON mode for models whose API has no switch for it: an instruction, and it is told."""


@dataclass(slots=True, frozen=True)
class AnswerFormat:
    """JSON mode (no schema) or a schema that the answer must follow."""

    schema: Json | None = None
    name: str = ""
    description: str = ""
    strict: bool | None = None


@dataclass(slots=True, frozen=True)
class ThinkingWish:
    """How much the model shall think."""

    mode: str
    """``off``, ``budget``, ``effort`` or ``adaptive``."""
    budget_tokens: int = 0
    effort: str = ""
    """``none``, ``minimal``, ``low``, ``medium``, ``high``, ``xhigh``."""
    show: str = ""
    """Whether thoughts or their summary are wanted in the answer, as the dialect says it."""


@dataclass(slots=True)
class Conversation:
    """One request. Fields that the caller left out are None or empty."""

    model: str
    turns: list[Turn]
    system: list[Text] = field(default_factory=list)
    tools: list[Tool] = field(default_factory=list)
    known_as: dict[str, KnownAs] = field(default_factory=dict)
    """Those of ``tools`` that are no plain functions to the caller, by the name they have there."""
    tool_choice: ToolChoice | None = None
    parallel_tools: bool | None = None
    max_output_tokens: int | None = None
    stream: bool = False
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: list[str] = field(default_factory=list)
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    choices: int = 1
    logprobs: bool = False
    top_logprobs: int | None = None
    logit_bias: Json = field(default_factory=dict)
    answer_format: AnswerFormat | None = None
    thinking: ThinkingWish | None = None
    end_user: str = ""
    """OpenAI ``user`` / ``safety_identifier``, Anthropic ``metadata.user_id``."""
    extra: Json = field(default_factory=dict)
    """Top-level fields that the reader does not know, as they came. A writer of the same dialect
    writes them; every other refuses them by name."""
    dropped: list[str] = field(default_factory=list)
    """Fields that were left out because the target has no equal and no answer changes: told to the
    caller in a header."""
