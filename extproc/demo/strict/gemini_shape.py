"""The shape of a request to Google's generateContent."""

from __future__ import annotations

from typing import Any

from extproc.demo.strict.shape import (
    BOOLEAN,
    INTEGER,
    NUMBER,
    OBJECT,
    TEXT,
    Path,
    Shape,
    anything,
    base64_text,
    list_of,
    map_of,
    number,
    one_of,
    record,
    text,
)

_NAME = text(r"[A-Za-z_][A-Za-z0-9_.:-]{0,127}")
_BLOB = record({"mimeType": text(".+/.+"), "data": base64_text}, {"displayName": TEXT})


def _schema(value: Any, path: Path) -> None:
    """Google's own schema. JSON Schema has a field of its own: ``parametersJsonSchema``."""
    record({}, _SCHEMA_FIELDS)(value, path)


_SCHEMA_FIELDS: dict[str, Shape] = {
    "type": TEXT,
    "additionalProperties": anything,
    "anyOf": list_of(_schema),
    "default": anything,
    "defs": anything,
    "description": TEXT,
    "enum": list_of(TEXT),
    "example": anything,
    "format": TEXT,
    "items": _schema,
    "nullable": BOOLEAN,
    "pattern": TEXT,
    "properties": map_of(_schema),
    "propertyOrdering": list_of(TEXT),
    "ref": TEXT,
    "required": list_of(TEXT),
    "title": TEXT,
    **dict.fromkeys(
        ("maxItems", "maxLength", "maxProperties", "minItems", "minLength", "minProperties"),
        anything,
    ),
    **dict.fromkeys(("maximum", "minimum"), NUMBER),
}
_PART = record(
    {},
    {
        "text": TEXT,
        "inlineData": _BLOB,
        "fileData": record({"fileUri": TEXT}, {"mimeType": TEXT, "displayName": TEXT}),
        "functionCall": record({"name": _NAME}, {"args": OBJECT, "id": TEXT}),
        "functionResponse": record(
            {"name": _NAME, "response": OBJECT},
            {
                "id": TEXT,
                "parts": list_of(record({}, {"inlineData": _BLOB, "fileData": OBJECT})),
                "scheduling": TEXT,
                "willContinue": BOOLEAN,
            },
        ),
        "thought": BOOLEAN,
        "thoughtSignature": base64_text,
        "videoMetadata": OBJECT,
        "mediaResolution": OBJECT,
        "executableCode": OBJECT,
        "codeExecutionResult": OBJECT,
        "partMetadata": OBJECT,
    },
)
_CONTENT = record({"parts": list_of(_PART)}, {"role": TEXT})
_GENERATION = record(
    {},
    {
        "temperature": number(0, 2),
        "topP": number(0, 1),
        "topK": NUMBER,
        "candidateCount": number(1, 8, whole=True),
        "maxOutputTokens": number(1, whole=True),
        "stopSequences": list_of(TEXT),
        "seed": INTEGER,
        "presencePenalty": number(-2, 2),
        "frequencyPenalty": number(-2, 2),
        "responseLogprobs": BOOLEAN,
        "logprobs": number(0, 20, whole=True),
        "responseMimeType": one_of("text/plain", "application/json", "text/x.enum"),
        "responseSchema": _schema,
        "responseJsonSchema": anything,
        "responseModalities": list_of(TEXT),
        "thinkingConfig": record(
            {},
            {
                "includeThoughts": BOOLEAN,
                "thinkingBudget": number(-1, whole=True),
                "thinkingLevel": TEXT,
            },
        ),
        "mediaResolution": TEXT,
        "speechConfig": OBJECT,
        "imageConfig": OBJECT,
        "audioTimestamp": BOOLEAN,
        "enableEnhancedCivicAnswers": BOOLEAN,
        "enableAffectiveDialog": BOOLEAN,
        "modelSelectionConfig": OBJECT,
        "routingConfig": OBJECT,
    },
)
_FUNCTION = record(
    {"name": _NAME},
    {
        "description": TEXT,
        "parameters": _schema,
        "parametersJsonSchema": OBJECT,
        "response": _schema,
        "responseJsonSchema": OBJECT,
        "behavior": TEXT,
    },
)
_TOOL = record(
    {},
    {
        "functionDeclarations": list_of(_FUNCTION),
        **dict.fromkeys(
            (
                "codeExecution",
                "computerUse",
                "fileSearch",
                "googleMaps",
                "googleSearch",
                "googleSearchRetrieval",
                "retrieval",
                "urlContext",
            ),
            OBJECT,
        ),
    },
)
_CALLING = record(
    {},
    {
        "mode": one_of("MODE_UNSPECIFIED", "AUTO", "ANY", "NONE", "VALIDATED"),
        "allowedFunctionNames": list_of(TEXT),
    },
)
REQUEST = record(
    {"contents": list_of(_CONTENT)},
    {
        "systemInstruction": _CONTENT,
        "generationConfig": _GENERATION,
        "tools": list_of(_TOOL),
        "toolConfig": record({}, {"functionCallingConfig": _CALLING, "retrievalConfig": OBJECT}),
        "safetySettings": list_of(record({"category": TEXT, "threshold": TEXT}, {"method": TEXT})),
        "cachedContent": TEXT,
        "labels": map_of(TEXT),
        "model": TEXT,
    },
)
