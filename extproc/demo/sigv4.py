"""AWS Signature Version 4 as the receiver checks it: computed again from what arrived."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import parse_qsl, quote

from extproc.demo.answer import BadRequestError

ALGORITHM = "AWS4-HMAC-SHA256"
MAX_SKEW_S = 300
"""AWS refuses a signature that is older, or from further in the future."""

_AUTHORIZATION = re.compile(
    ALGORITHM + r" Credential=(?P<key>[^/,\s]+)/(?P<scope>\d{8}/[^/]+/[^/]+/aws4_request), ?"
    r"SignedHeaders=(?P<headers>[^,\s]+), ?Signature=(?P<signature>[0-9a-f]{64})"
)
_MISMATCH = (
    "The request signature we calculated does not match the signature you provided. Check your "
    "AWS Secret Access Key and signing method. Consult the service documentation for details."
)


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """What is signed of a request. ``raw_path`` is as it was on the wire, without the query."""

    method: str
    raw_path: str
    query: str
    headers: Mapping[str, str]
    """By lower-case name."""
    body: bytes


def access_key_id(authorization: str) -> str:
    """Whose signature it says it is; empty for another kind of credential."""
    found = _AUTHORIZATION.fullmatch(authorization)
    return found["key"] if found else ""


def verify(request: SignedRequest, secret: str, now: datetime) -> None:
    """Raises BadRequestError (403) unless the request was signed with the secret, a while ago."""
    authorization = request.headers.get("authorization", "")
    if not authorization:
        raise BadRequestError(
            "Missing Authentication Token", 403, "MissingAuthenticationTokenException"
        )
    found = _AUTHORIZATION.fullmatch(authorization)
    if found is None:
        raise _invalid("Authorization header is not in the form of " + ALGORITHM)
    stamp = request.headers.get("x-amz-date", "")
    _check_date(stamp, found["scope"], now)
    signed = found["headers"].split(";")
    if "host" not in signed or signed != sorted(signed):
        raise _invalid("'Host' must be a 'SignedHeader' in the AWS Authorization.")
    canonical = hashlib.sha256(_canonical(request, signed).encode()).hexdigest()
    to_sign = "\n".join((ALGORITHM, stamp, found["scope"], canonical))
    expected = hmac.new(_key(secret, found["scope"]), to_sign.encode(), hashlib.sha256).hexdigest()
    if not hmac.compare_digest(expected, found["signature"]):
        raise _invalid(_MISMATCH)


def _check_date(stamp: str, scope: str, now: datetime) -> None:
    try:
        signed_at = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError as error:
        raise _invalid("Date in X-Amz-Date is not in the form of ISO 8601.") from error
    if not scope.startswith(stamp[:8]):
        raise _invalid("Date in Credential scope does not match YYYYMMDD from X-Amz-Date.")
    if abs((now - signed_at).total_seconds()) > MAX_SKEW_S:
        raise _invalid(f"Signature expired: {stamp} is not within {MAX_SKEW_S} s of now.")


def _canonical(request: SignedRequest, signed: list[str]) -> str:
    """The canonical request. A path is encoded once more than it was on the wire."""
    query = sorted(
        (quote(name, safe="-_.~"), quote(value, safe="-_.~"))
        for name, value in parse_qsl(request.query, keep_blank_values=True)
    )
    hashed = hashlib.sha256(request.body).hexdigest()
    claimed = request.headers.get("x-amz-content-sha256", hashed)
    if claimed not in (hashed, "UNSIGNED-PAYLOAD"):
        raise _invalid("The value of x-amz-content-sha256 is not the hash of the body.")
    lines = [f"{name}:{' '.join(request.headers.get(name, '').split())}" for name in signed]
    return "\n".join(
        (
            request.method,
            quote(request.raw_path, safe="/-_.~"),
            "&".join(f"{name}={value}" for name, value in query),
            *lines,
            "",
            ";".join(signed),
            claimed,
        )
    )


def _key(secret: str, scope: str) -> bytes:
    key = ("AWS4" + secret).encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), hashlib.sha256)
    return key


def _invalid(why: str) -> BadRequestError:
    return BadRequestError(why, 403, "InvalidSignatureException")
