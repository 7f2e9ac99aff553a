"""What a request and an answer of the Responses API have in common: reasoning that is given back.

A reasoning item carries OpenAI's own encrypted thoughts. Those of another vendor travel in the same
field with the vendor's name before them, so that they come back with the next turn and reach the
vendor that signed them, and nobody else.
"""

from __future__ import annotations

from extproc.dialects.conversation import Thinking, Vendor

_REDACTED = "redacted"


def encrypted_content(thinking: Thinking) -> str:
    """What a reasoning item holds of thinking; empty when it cannot be given back."""
    if not thinking.signature or thinking.vendor is Vendor.OPENAI:
        return thinking.signature
    kind = f"{thinking.vendor}.{_REDACTED}" if thinking.redacted else str(thinking.vendor)
    return f"{kind}.{thinking.signature}"


def thinking_of(text: str, encrypted: str, item_id: str) -> Thinking:
    """The thinking of a reasoning item."""
    vendor, dot, signature = encrypted.partition(".")
    if dot and vendor in (Vendor.ANTHROPIC, Vendor.GOOGLE):
        kind, _, rest = signature.partition(".")
        if kind == _REDACTED:
            return Thinking("", rest, Vendor(vendor), redacted=True)
        return Thinking(text, signature, Vendor(vendor))
    return Thinking(text, encrypted, Vendor.OPENAI, item_id=item_id)
