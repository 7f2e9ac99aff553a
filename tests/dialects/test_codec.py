"""The seam: defaults that every dialect may rely on."""

from __future__ import annotations

from extproc.dialects.codec import Context, TargetFacts, WrittenRequest
from extproc.dialects.conversation import Vendor


def test_what_is_not_said_has_the_plain_meaning() -> None:
    assert Context("r", 1, "m").include_usage
    assert TargetFacts("m", Vendor.OTHER).max_output_tokens is None
    assert WrittenRequest("/p", b"{}").dropped == ()
