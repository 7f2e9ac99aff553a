"""What Google's generateContent refuses."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from extproc.demo.answer import BadRequestError
from extproc.demo.asked import Json
from extproc.demo.gemini import SIGNS_CALLS
from extproc.demo.signatures import UNSIGNED_CALL_MARKS, call_text, is_signed
from extproc.demo.strict.gemini_shape import REQUEST
from extproc.demo.strict.shape import Misfit, Path

MAX_STOPS = 5
_DATA = ("text", "inlineData", "fileData", "functionCall", "functionResponse")


def check(body: Json, model: str) -> None:
    """Raises BadRequestError."""
    try:
        REQUEST(body, ())
    except Misfit as misfit:
        raise _refused(misfit) from misfit
    contents = body["contents"]
    for place, content in enumerate(contents):
        _check_content(content, place)
    _check_functions(contents)
    _check_signatures(contents, model)
    _check_tools(body, model)
    _check_generation(body.get("generationConfig") or {})
    _check_thinking((body.get("generationConfig") or {}).get("thinkingConfig") or {}, model)


def _snake(path: Path) -> str:
    """``generation_config.max_output_tokens``: Google's errors name its own fields."""
    written = ""
    for step in path:
        name = (
            f"[{step}]"
            if isinstance(step, int)
            else re.sub("[A-Z]", lambda m: "_" + m[0].lower(), step)
        )
        written += name if isinstance(step, int) or not written else f".{name}"
    return written


def _refused(misfit: Misfit) -> BadRequestError:
    where = _snake(misfit.path)
    if misfit.why == "unknown":
        parent = _snake(misfit.path[:-1])
        at = f" at '{parent}'" if parent else ""
        return BadRequestError(
            f'Invalid JSON payload received. Unknown name "{misfit.path[-1]}"{at}: Cannot find '
            "field."
        )
    if misfit.why == "missing":
        return BadRequestError(f"* GenerateContentRequest.{where}: {where} is not specified")
    if misfit.why == "type":
        return BadRequestError(f"Invalid value at '{where}' ({misfit.wanted}), {misfit.value!r}")
    if misfit.wanted == "base64":
        return BadRequestError(
            f"Invalid value at '{where}' (TYPE_BYTES), Base64 decoding failed for "
            f'"{misfit.value}"'
        )
    if misfit.path[-1] == "name":
        return BadRequestError(
            f"* GenerateContentRequest.{where}: Invalid function name. Must start with a letter or "
            "an underscore. Must be alphameric (a-z, A-Z, 0-9), underscores (_), dots (.), colons "
            "(:), or dashes (-), with a maximum length of 128."
        )
    return BadRequestError(f"* GenerateContentRequest.{where}: must be {misfit.wanted}")


def _check_content(content: Json, place: int) -> None:
    if content.get("role", "user") not in ("user", "model", "function"):
        raise BadRequestError("Please use a valid role: user, model.")
    if not content["parts"]:
        raise BadRequestError(
            f"* GenerateContentRequest.contents[{place}].parts: contents.parts must not be empty."
        )
    for number_, part in enumerate(content["parts"]):
        where = f"contents[{place}].parts[{number_}]"
        given = [name for name in _DATA if part.get(name) is not None]
        given += [name for name in ("executableCode", "codeExecutionResult") if name in part]
        if len(given) != 1:
            raise BadRequestError(
                f"* GenerateContentRequest.{where}.data: required oneof field 'data' must have one "
                "initialized field"
            )
        if part.get("text") == "" and "thoughtSignature" not in part:
            raise BadRequestError(
                "Unable to submit request because it has an empty text parameter. Add a value to "
                "the parameter and try again."
            )
        if "functionCall" in part and content.get("role") != "model":
            raise BadRequestError("Please ensure that function call turn is of the role model.")
        if "functionResponse" in part and content.get("role") == "model":
            raise BadRequestError("Please ensure that function response turn is of the role user.")


def _named(content: Json, kind: str) -> list[Json]:
    return [part[kind] for part in content["parts"] if kind in part]


def _check_functions(contents: list[Json]) -> None:
    """Each turn of calls is answered at once, call by call."""
    calls: list[Json] = []
    for place, content in enumerate(contents):
        responses = _named(content, "functionResponse")
        if responses and not calls:
            raise BadRequestError(
                "Please ensure that function response turn comes immediately after a function call "
                "turn."
            )
        if len(responses) != len(calls):
            raise BadRequestError(
                "Please ensure that the number of function response parts is equal to the number "
                "of function call parts of the function call turn."
            )
        if sorted(r["name"] for r in responses) != sorted(c["name"] for c in calls):
            raise BadRequestError(
                "Please ensure that function response parts have the names of the function calls."
            )
        ids = {call["id"] for call in calls if "id" in call}
        if any(response["id"] not in ids for response in responses if "id" in response and ids):
            raise BadRequestError(
                "Please ensure that function response parts have the ids of the function calls."
            )
        calls = _named(content, "functionCall")
        before = contents[place - 1].get("role", "user") if place else ""
        if calls and before not in ("user", "function"):
            raise BadRequestError(
                "Please ensure that function call turn comes immediately after a user turn or "
                "after a function response turn."
            )
    if calls:
        raise BadRequestError(
            "Please ensure that the number of function response parts is equal to the number of "
            "function call parts of the function call turn."
        )


def _check_signatures(contents: list[Json], model: str) -> None:
    """Signatures must be Google's own; from Gemini 3 on, the first call of each step since the
    user's last word must have one."""
    current = 0
    for place, content in enumerate(contents):
        if content.get("role", "user") == "user" and not _named(content, "functionResponse"):
            current = place
    for place, content in enumerate(contents):
        said = "".join(p.get("text", "") for p in content["parts"] if not p.get("thought"))
        first = True
        for number_, part in enumerate(content["parts"]):
            signature, call = part.get("thoughtSignature"), part.get("functionCall")
            signed = call_text(call["name"], call.get("args") or {}) if call else said
            if signature is not None and not _is_valid(signature, signed):
                raise BadRequestError("Thought signature is not valid.")
            needs = call and first and place > current and SIGNS_CALLS.match(model)
            if needs and signature is None:
                raise BadRequestError(
                    "Function call is missing a thought_signature in functionCall parts. This is "
                    "required for tools to work correctly, and missing thought_signature may lead "
                    "to degraded model performance. Additional data, function call "
                    f"`default_api:{call['name']}` , position {number_ + 1}. Please refer to "
                    "https://ai.google.dev/gemini-api/docs/thought-signatures for more details."
                )
            first = first and not call


def _is_valid(signature: str, signed: str) -> bool:
    return signature in UNSIGNED_CALL_MARKS or is_signed(
        "google", signed, signature.replace("-", "+").replace("_", "/")
    )


def _check_tools(body: Json, model: str) -> None:
    functions = [
        function
        for tool in body.get("tools") or ()
        for function in tool.get("functionDeclarations") or ()
    ]
    names = [function["name"] for function in functions]
    for name in names:
        if names.count(name) > 1:
            raise BadRequestError(f"Duplicate function declaration found: {name}")
    for function in functions:
        if "parameters" in function and "parametersJsonSchema" in function:
            raise BadRequestError("parameters_json_schema must not be set when parameters is set.")
    calling = (body.get("toolConfig") or {}).get("functionCallingConfig") or {}
    allowed = calling.get("allowedFunctionNames")
    if allowed and calling.get("mode") not in ("ANY", "VALIDATED"):
        raise BadRequestError(
            "function_calling_config.allowed_function_names should only be set when mode is ANY."
        )
    if calling.get("mode") == "ANY" and not functions:
        raise BadRequestError("Function calling config is set without function_declarations.")
    for name in allowed or ():
        if name not in names:
            raise BadRequestError(f"allowed_function_names: {name} is not a declared function.")
    config = body.get("generationConfig") or {}
    is_json = config.get("responseMimeType") == "application/json"
    if functions and is_json and not SIGNS_CALLS.match(model):
        raise BadRequestError(
            "Function calling with a response mime type: 'application/json' is unsupported"
        )


def _check_generation(config: dict[str, Any]) -> None:
    if len(config.get("stopSequences") or ()) > MAX_STOPS:
        raise BadRequestError(
            "* GenerateContentRequest.generation_config.stop_sequences: the number of stop "
            f"sequences must be at most {MAX_STOPS}."
        )
    schemas = [name for name in ("responseSchema", "responseJsonSchema") if config.get(name)]
    if len(schemas) > 1:
        raise BadRequestError("Only one of response_schema and response_json_schema may be set.")
    if schemas and config.get("responseMimeType", "text/plain") == "text/plain":
        raise BadRequestError(
            f"* GenerateContentRequest.generation_config.{_snake((schemas[0],))}: only allowed "
            "with response_mime_type application/json."
        )
    if config.get("logprobs") is not None and not config.get("responseLogprobs"):
        raise BadRequestError("logprobs requires response_logprobs to be true.")


class _Thinking(NamedTuple):
    """How a family of models may be asked to think."""

    least_budget: int
    most_budget: int
    may_be_off: bool


_BUDGETS = (
    (re.compile(r"gemini-2\.5-pro"), _Thinking(128, 32_768, may_be_off=False)),
    (re.compile(r"gemini-2\.5-flash-lite"), _Thinking(512, 24_576, may_be_off=True)),
    (re.compile(r"gemini-2\.5-flash"), _Thinking(1, 24_576, may_be_off=True)),
)
_LEVELS = (
    (re.compile(r"gemini-3-pro"), ("low", "high")),
    (re.compile(r"gemini-3\.\d+-pro"), ("low", "medium", "high")),
    (SIGNS_CALLS, ("minimal", "low", "medium", "high")),
)


def _check_thinking(config: dict[str, Any], model: str) -> None:
    budget, level = config.get("thinkingBudget"), config.get("thinkingLevel")
    if budget is not None and level is not None:
        raise BadRequestError("You can only set only one of thinking budget and thinking level.")
    if level is not None:
        levels = next((known for family, known in _LEVELS if family.match(model)), ())
        if not levels:
            raise BadRequestError("Thinking level is not supported for this model.")
        if level.lower() not in levels:
            raise BadRequestError(
                f"Thinking level {level.upper()} is not supported for this model. Please retry "
                "with other thinking level."
            )
    elif budget is not None and not SIGNS_CALLS.match(model):
        allowed = next((known for family, known in _BUDGETS if family.match(model)), None)
        if allowed is None:
            raise BadRequestError(
                "Unable to submit request because thinking is not supported by this model."
            )
        if budget == 0 and not allowed.may_be_off:
            raise BadRequestError("Budget 0 is invalid. This model only works in thinking mode.")
        if budget > 0 and not allowed.least_budget <= budget <= allowed.most_budget:
            raise BadRequestError(
                f"The thinking budget {budget} is invalid. Please choose a value between "
                f"{allowed.least_budget} and {allowed.most_budget}."
            )
