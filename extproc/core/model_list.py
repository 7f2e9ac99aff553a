"""``GET /v1/models``: the virtual models that a credential may use."""

from __future__ import annotations

import orjson

from extproc.core.generation import Generation
from extproc.policy.snapshot import Credential


def model_list(generation: Generation, credential: Credential) -> bytes:
    """The list in the shape that OpenAI's and Anthropic's SDKs both read."""
    models = [
        {
            "id": model.name,
            "object": "model",
            "type": "model",
            "display_name": model.name,
            "created": 0,
            "created_at": "1970-01-01T00:00:00Z",
            "owned_by": "tokenweir",
        }
        for model in generation.policy.virtual_models.values()
        if generation.may_use(credential, model)
    ]
    ids = [str(model["id"]) for model in models]
    return orjson.dumps(
        {
            "object": "list",
            "data": models,
            "has_more": False,
            "first_id": ids[0] if ids else None,
            "last_id": ids[-1] if ids else None,
        }
    )
