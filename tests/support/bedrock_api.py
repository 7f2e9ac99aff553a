"""Amazon's Converse API as botocore knows it: checks requests, frames events."""

from __future__ import annotations

import base64
import json
import struct
from binascii import crc32
from functools import lru_cache
from typing import Any

import botocore.loaders
import botocore.model
import botocore.validate


@lru_cache
def service() -> botocore.model.ServiceModel:
    """The service model of bedrock-runtime."""
    loader = botocore.loaders.Loader()
    return botocore.model.ServiceModel(loader.load_service_model("bedrock-runtime", "service-2"))


def check_request(document: dict[str, Any], operation: str = "Converse") -> None:
    """Raises for a body that is no request of the operation."""
    shape = service().operation_model(operation).input_shape
    parameters = _decoded(shape, {"modelId": "m", **document})
    report = botocore.validate.ParamValidator().validate(parameters, shape)
    assert not report.has_errors(), report.generate_report()


def _decoded(shape: Any, value: Any) -> Any:
    """JSON has blobs in base64; botocore's shapes have bytes. Unknown members are an error."""
    if shape.type_name == "structure" and not getattr(shape, "is_document_type", False):
        unknown = set(value) - set(shape.members)
        assert not unknown, f"{shape.name} has no {unknown}"
        return {key: _decoded(shape.members[key], inner) for key, inner in value.items()}
    if shape.type_name == "list":
        return [_decoded(shape.member, inner) for inner in value]
    if shape.type_name == "blob":
        return base64.b64decode(value, validate=True)
    return value


def frame(payload: dict[str, Any] | bytes, **headers: str) -> bytes:
    """One message of the event stream; ``event="x"`` is ``:event-type: x``."""
    names = {"event": ":event-type", "exception": ":exception-type"}
    kind = "exception" if "exception" in headers else "event"
    all_headers = {
        ":message-type": kind,
        ":content-type": "application/json",
        **{names.get(key, key): value for key, value in headers.items()},
    }
    head = b"".join(
        bytes([len(name)])
        + name.encode()
        + b"\x07"
        + struct.pack(">H", len(value))
        + value.encode()
        for name, value in all_headers.items()
    )
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    prelude = struct.pack(">II", 12 + len(head) + len(body) + 4, len(head))
    message = prelude + struct.pack(">I", crc32(prelude)) + head + body
    return message + struct.pack(">I", crc32(message))
