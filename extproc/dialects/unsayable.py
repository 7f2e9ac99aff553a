"""What an API cannot say, where several cannot say it: of a request, and of an answer."""

from __future__ import annotations

from extproc.dialects.conversation import Conversation, Media, UntranslatableError

_OPENAIS = ("top_logprobs", "presence_penalty", "frequency_penalty")
"""Fields that may only say what is so without them."""


def unshown(media: Media) -> str:
    """What stands for something generated in an answer whose API has no place for it: the caller
    has paid for it, and is told."""
    return f"[Left out, as this API has no place for it: {media.media_type or media.kind}]"


def refuse_extra(conversation: Conversation) -> None:
    """Refuses fields that no dialect of ours knows. Raises ``UntranslatableError``, as the next."""
    for key in conversation.extra:
        raise UntranslatableError(key, "the provider's API has no such field")


def refuse_openais_own(conversation: Conversation, api: str) -> None:
    """Refuses what OpenAI's APIs can say and Anthropic's and Bedrock's cannot."""
    refuse_extra(conversation)
    for key in _OPENAIS:
        if getattr(conversation, key) not in (None, 0):
            raise UntranslatableError(key, f"{api}'s API has no such field")
    if conversation.choices > 1:
        raise UntranslatableError("n", f"{api} gives one answer at a time")
    if conversation.logprobs:
        raise UntranslatableError("logprobs", f"{api} gives none")
    if conversation.logit_bias:
        raise UntranslatableError("logit_bias", f"{api}'s API has no such field")
    if conversation.temperature is not None and conversation.temperature > 1:
        raise UntranslatableError("temperature", f"{api}'s is from 0 to 1")
