"""How each vendor signs what its model thought, so that it can be given back and not be changed.

The keys are no secret: a signature proves here that a text came back as it was told, and to the
vendor that told it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any, Literal

Vendor = Literal["anthropic", "openai", "google"]
"""Claude's are the same on Anthropic and on Bedrock."""

UNSIGNED_CALL_MARKS = ("skip_thought_signature_validator", "context_engineering_is_the_way_to_go")
"""What Google documents to send with calls that another model made."""


def sign(vendor: Vendor, text: str) -> str:
    """The signature of a thought, in base64."""
    digest = hmac.digest(f"demo-{vendor}".encode(), text.encode("utf-8", "replace"), hashlib.sha384)
    return base64.b64encode(digest).decode()


def is_signed(vendor: Vendor, text: str, signature: str) -> bool:
    """Whether this vendor signed this text."""
    return hmac.compare_digest(sign(vendor, text).encode(), signature.encode("utf-8", "replace"))


def sealed(vendor: Vendor, text: str) -> str:
    """A thought that only its vendor can read: withheld by Anthropic, encrypted by OpenAI. It
    holds its own signature."""
    coded = text.encode() + b"\0" + base64.b64decode(sign(vendor, text))
    return base64.b64encode(coded).decode()


def is_sealed(vendor: Vendor, data: str) -> bool:
    """Whether this vendor sealed it, and it came back unchanged."""
    try:
        text, _, signature = base64.b64decode(data, validate=True).partition(b"\0")
        return is_signed(vendor, text.decode(), base64.b64encode(signature).decode())
    except ValueError:
        return False


def call_text(name: str, arguments: Any) -> str:
    """What Google signs of a function call: how its JSON is spaced and ordered is all the same."""
    return f"{name} {json.dumps(arguments, sort_keys=True, separators=(',', ':'))}"
