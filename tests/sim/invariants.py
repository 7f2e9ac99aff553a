"""What must be true, whatever happens. Each function raises ``Violation`` with the invariant's id.

The first group is called when something happens, the second after every step, the third when faults
have stopped and all leases are over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import sim_policy
from books import Booked, CounterKey, Violation

from extproc.ledger.port import Hold
from extproc.values.limit import NO_CEILING, Unit

if TYPE_CHECKING:
    from fake_envoy import Attempt, Call
    from simulation import Sidecar, Simulation

LEASE_GRACE_MS = 60_000
"""A lease that is over is seen by the next upkeep, or the first one after a restart."""
GATEWAYS_FAULT = ("refused internal_error", "refused store_unavailable")


# -- when it happens ------------------------------------------------------------------------------


def i1_no_attempt_without_a_durable_reservation(
    world: Simulation, call: Call, attempt: Attempt
) -> None:
    """I1: what goes to a provider was reserved, and its reservation outlives a crash."""
    booked = world.books.booked.get(f"{call.request_id}/{attempt.number}")
    if booked is None or booked.ends == ["lost"]:
        raise Violation(f"I1: attempt {attempt.number} was sent without a reservation")
    if not booked.durable:
        raise Violation(f"I1: attempt {attempt.number} was sent before its reservation was durable")
    # A machine that slept longer than a lease finds it expired, and so charged: no harm is done.
    if booked.charged is not None and not (booked.ends == ["expired"] and world.just_woke):
        raise Violation(f"I1: attempt {attempt.number} was sent on a reservation that has ended")
    if booked.about["target"] != attempt.target:
        raise Violation(f"I1: reserved for {booked.about['target']}, sent to {attempt.target}")


def i7_one_generation(world: Simulation, call: Call) -> None:
    """I7: a request is decided by the generation that was active when its headers came; one that
    had to wait, by that or a later one."""
    newer = call.held and call.generation > call.generation_seen
    if call.generation != call.generation_seen and not newer:
        raise Violation(f"I7: began in {call.generation_seen}, decided by {call.generation}")
    booked = world.books.booked.get(call.request_id + "/1")
    if booked is not None and booked.about["generation"] != call.generation:
        raise Violation(f"I7: decided by {call.generation}, booked {booked.about['generation']}")


def i12_every_message_is_answered(world: Simulation, call: Call, alive: bool) -> None:
    """I12: a sidecar that lives answers before Envoy loses patience, if the machine is awake."""
    if alive and not world.just_woke:
        raise Violation(f"I12: no answer to the {call.stage} of a request by a living sidecar")


# -- after every step -----------------------------------------------------------------------------


def i3_each_end_is_the_only_one(world: Simulation) -> None:
    """I3, and I2 at the moment of a grant: what the books found while real code was running."""
    if world.books.broken:
        raise world.books.broken[0]


def i2_within_ceilings(world: Simulation) -> None:
    """I2: settled + reserved <= ceiling + debt, on every counter that changed. An embedded ledger
    counts exactly what the books do."""
    changed = sorted(world.books.changed)
    world.books.changed.clear()
    for key in changed:
        total, debt, sure = world.books.total(key, world.schedule.now_ms)
        ceiling = world.books.ceilings.get(key)
        if ceiling is not None and total > ceiling + debt:
            raise Violation(f"I2: {key} holds {total} of {ceiling}, debt {debt}")
        if sure and not world.remote:
            _counts_the_same(world, world.sidecars[0], key, total)


def _counts_the_same(world: Simulation, sidecar: Sidecar, key: CounterKey, total: int) -> None:
    if sidecar.process is None:
        return
    hold = Hold(world.books.limits[key], key[1], NO_CEILING)
    (standing,) = sidecar.ledger.peek([hold], world.schedule.now_ms)
    counted = standing.settled + standing.reserved
    if counted != total:
        raise Violation(f"I2: the ledger counts {counted} on {key}, its answers say {total}")


def i4_ends_within_its_lease(world: Simulation) -> None:
    """I4: every reservation ends, whatever died."""
    now_ms = world.schedule.now_ms
    for booked in world.books.open():
        if not booked.unsure and booked.lease_until_ms + LEASE_GRACE_MS < now_ms:
            raise Violation(f"I4: {booked.id} is still open after its lease")


def kept_bodies_are_counted(world: Simulation) -> None:
    """What is kept for next targets is what the bound is held against."""
    for sidecar in world.sidecars:
        if sidecar.process is not None:
            gate = sidecar.process.sidecar.gate
            kept = sum(len(entry.kept_body or b"") for entry in gate.in_flight.values())
            if gate.kept_bytes != kept:
                raise Violation(f"kept: {kept} bytes, counted as {gate.kept_bytes}")


# -- in the end -----------------------------------------------------------------------------------


def i3_everything_has_ended(world: Simulation) -> None:
    """I3: no reservation is left over."""
    for booked in world.books.open():
        if not booked.unsure:
            raise Violation(f"I3: {booked.id} never ended")


def i5_the_ledger_covers_the_bill(world: Simulation) -> None:
    """I5: charged = bill for what ended in order and was heard of; never less than the bill; never
    more than was reserved or reported."""
    for sidecar in world.sidecars:
        for call in sidecar.envoy.calls:
            for attempt in call.attempts:
                _covers(world, call, attempt)


def _covers(world: Simulation, call: Call, attempt: Attempt) -> None:
    name = f"{call.request_id}/{attempt.number}"
    booked = world.books.booked.get(name)
    bill = world.provider.bill[name].micro_usd if name in world.provider.bill else 0
    if booked is None:
        if bill:
            raise Violation(f"I5: {name} was billed {bill} and never booked")
        return
    if booked.unsure:
        return  # never answered, so never sent
    what = f"{name} ({attempt.ending}, {booked.ends})"
    charged = booked.held[Unit.MICRO_USD]
    reserved = booked.reserved[Unit.MICRO_USD]
    honest = attempt.ending not in ("overrun", "lie")
    heard = _heard(call, attempt, booked)
    if heard and booked.ends[-1] == "expired":
        raise Violation(f"I5: {what} was heard of in time and still waited for its lease")
    if charged < bill and (honest or heard):
        raise Violation(f"I5: {what} is charged {charged}, the bill says {bill}")
    if honest and charged > reserved:
        raise Violation(f"I5: {what} is charged {charged}, more than its {reserved} reserved")
    if not heard or call.left:
        return
    if attempt.ending in ("answer", "stream", "overrun") and charged != bill:
        raise Violation(f"I5: {what} is charged {charged}, the bill says {bill}")
    if attempt.ending in ("connect_failed", "status") and charged:
        raise Violation(f"I5: {what} cost nothing and is charged {charged}")


def _heard(call: Call, attempt: Attempt, booked: Booked) -> bool:
    """Whether the process that had admitted it took in a log entry that decides this attempt, while
    the reservation was live."""
    entries = [(attempt.log_heard_by, attempt.log_heard_ms)]
    if attempt is call.attempts[-1]:
        entries.append((call.log_heard_by, call.log_heard_ms))
    return any(
        serial and serial == call.decided_by and heard_ms < booked.lease_until_ms
        for serial, heard_ms in entries
    )


def i6_denied_costs_nothing(world: Simulation) -> None:
    """I6: a refused request never reached a provider and is charged nothing."""
    for sidecar in world.sidecars:
        for call in sidecar.envoy.calls:
            if not call.verdict.startswith("refused") or call.attempts:
                continue
            if any(name.startswith(call.request_id) for name in world.provider.bill):
                raise Violation(f"I6: {call.request_id} was {call.verdict} and reached a provider")
            booked = world.books.booked.get(call.request_id + "/1")
            charged = booked is not None and any(booked.held)
            if charged and call.verdict not in GATEWAYS_FAULT:
                raise Violation(f"I6: {call.request_id} was {call.verdict} and is charged")


def i8_no_secret_in_the_log(world: Simulation) -> None:
    """I8: no key in anything that is written."""
    for path in world.folder.rglob("*.log"):
        data = path.read_bytes()
        for key in sim_policy.KEYS.values():
            if key.encode() in data:
                raise Violation(f"I8: an API key is in {path.name}")


def i12_converges(world: Simulation) -> None:
    """I12: when faults have stopped nothing is held back any more."""
    for sidecar in world.sidecars:
        process = sidecar.process
        if process is None:
            raise Violation("I12: the sidecar did not come back")
        if process.loop.errors:
            raise Violation(f"I12: unhandled: {process.loop.errors}")
        if process.sidecar.metrics.internal_errors:
            raise Violation(f"I12: {process.sidecar.metrics.internal_errors} faults of our own")
        left = process.sidecar.gate.in_flight
        if left:
            raise Violation(f"I12: {len(left)} requests are in flight for ever: {list(left)[:3]}")
        if sidecar.ledger.open_count:
            raise Violation(f"I12: {sidecar.ledger.open_count} reservations are left")
        for key, value, _, _, reserved in sidecar.ledger.counters():
            if reserved:
                raise Violation(f"I12: {reserved} is reserved on {key} {value} by nobody")


AFTER_EVERY_STEP = (
    i3_each_end_is_the_only_one,
    i2_within_ceilings,
    kept_bodies_are_counted,
)
IN_THE_END = (
    i4_ends_within_its_lease,
    i3_everything_has_ended,
    i5_the_ledger_covers_the_bill,
    i6_denied_costs_nothing,
    i8_no_secret_in_the_log,
    i12_converges,
)
