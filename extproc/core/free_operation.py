"""Operations that providers answer without a charge: nothing is reserved or counted for them, but
they fail over like any other."""

from __future__ import annotations

from extproc.core.callers import Caller, Plan
from extproc.core.gate import InFlight
from extproc.core.generation import Generation
from extproc.core.holds import Applicable
from extproc.core.routing import Chain
from extproc.ledger.port import Account
from extproc.wire.inference_request import InferenceRequest

_NO_LIMITS = Applicable(())


def subject_of(caller: Caller, request: InferenceRequest) -> tuple[str, ...]:
    """What the kill switch looks at."""
    return (*caller.envelope, caller.credential.id, request.model)


def entry_of(
    request_id: str, generation: Generation, chain: Chain, caller: Caller, request: InferenceRequest
) -> InFlight:
    """What a later attempt has to know, until the request's log entry. No lease ends it if that
    never comes, so it counts as silent from the beginning."""
    account = Account((), {"model": request.model})
    plan = Plan(_NO_LIMITS, (), account, (), subject_of(caller, request))
    return InFlight(
        request_id,
        generation,
        request.operation,
        request.body_bytes,
        request.written_bytes,
        chain,
        plan,
        None,
        {},
        caller,
        False,
    )
