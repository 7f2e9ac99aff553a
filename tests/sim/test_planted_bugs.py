"""The simulation can fail: each bug planted here is caught, by the invariant that names it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from books import Violation
from simulation import PEACE, Simulation

from extproc.core import refusals, settlement
from extproc.core.attempt import AttemptMachine
from extproc.core.commands import Release, Reserve, SendAttempt
from extproc.core.events import Reserved
from extproc.core.gate import Gate
from extproc.core.machine import RequestMachine
from extproc.edge import codec
from extproc.edge.services import AccessLogService, RequestService, Sidecar
from extproc.ledger.embedded import EmbeddedLedger
from extproc.ledger.journal import Journal
from extproc.ledger.port import Granted
from extproc.values.limit import NO_CEILING, NOTHING, Unit
from extproc.wire.inference_request import rewrite

SEEDS = 30
FAILING: dict[str, float] = {**PEACE, "connect_failed": 0.5, "status": 0.5, "cut": 0.5}

Plant = Callable[[pytest.MonkeyPatch], None]


def double_settle(patch: pytest.MonkeyPatch) -> None:
    """A settlement is not remembered, so the lease charges it again."""
    settle = EmbeddedLedger.settle

    def forgetful(self: Any, reservation_id: str, *rest: Any) -> Any:
        reservation = self._open.get(reservation_id)
        end = settle(self, reservation_id, *rest)
        if reservation is not None:
            self._open[reservation_id] = reservation
        return end

    patch.setattr(EmbeddedLedger, "settle", forgetful)


def missing_release(patch: pytest.MonkeyPatch) -> None:
    """What provably cost nothing is left to its lease."""
    end = Sidecar.end

    def only_settles(self: Sidecar, commands: Any, now_ms: int) -> None:
        end(self, [c for c in commands if not isinstance(c, Release)], now_ms)

    patch.setattr(Sidecar, "end", only_settles)


def early_return(patch: pytest.MonkeyPatch) -> None:
    """A stray return: some requests get no answer."""
    message = RequestService.message

    def forgets_some(self: Any, stream: Any, data: bytes) -> None:
        if len(data) % 5:
            message(self, stream, data)

    patch.setattr(RequestService, "message", forgets_some)


def ends_with_ok(patch: pytest.MonkeyPatch) -> None:
    """The stream of a body is ended without a verdict: Envoy would go on."""
    empty = codec.pb.ProcessingResponse(request_body=codec.pb.BodyResponse()).SerializeToString()
    patch.setattr(codec, "encode_forward", lambda command: empty)


def reserves_after_sending(patch: pytest.MonkeyPatch) -> None:
    """The answer does not wait for the ledger."""
    reserve = Sidecar.reserve

    def later(self: Sidecar, command: Reserve) -> Any:
        self.ledger._loop.call_later(0.05, reserve, self, command)
        return Granted([], [], NO_CEILING, NO_CEILING)

    patch.setattr(Sidecar, "reserve", later)


def answers_before_writing(patch: pytest.MonkeyPatch) -> None:
    """The journal is not flushed before the answers leave."""
    patch.setattr(RequestService, "before_write", lambda self: None)


def unreserved_attempts(patch: pytest.MonkeyPatch) -> None:
    """Later attempts ride on the first one's reservation."""
    on_body = AttemptMachine.on_body

    def sends(self: Any, body: bytes, now_ms: int) -> Any:
        on_body(self, body, now_ms)
        rewritten = rewrite(self._request, self._target.model, None, False)
        return SendAttempt(self._target, self._entry.operation, rewritten)

    patch.setattr(AttemptMachine, "on_body", sends)


def lease_gives_back(patch: pytest.MonkeyPatch) -> None:
    """An expired reservation is given back instead of charged."""

    def expire(self: Any, now_ms: int) -> list[Any]:
        late = [r.id for r in self._open.values() if r.lease_until_ms <= now_ms]
        return [self._end(name, "x", NOTHING, now_ms, {}) for name in late]

    patch.setattr(EmbeddedLedger, "expire", expire)


def leases_never_end(patch: pytest.MonkeyPatch) -> None:
    """Nobody looks at leases."""
    patch.setattr(EmbeddedLedger, "expire", lambda self, now_ms: [])


def stale_snapshot(patch: pytest.MonkeyPatch) -> None:
    """The body is decided by whatever policy is active by then."""
    on_body = RequestMachine.on_body

    def reads_again(self: Any, event: Any) -> Any:
        self._generation = self._gate.generation
        return on_body(self, event)

    patch.setattr(RequestMachine, "on_body", reads_again)


def never_reloads(patch: pytest.MonkeyPatch) -> None:
    """Decisions go on under the first policy."""
    init = RequestMachine.__init__
    first: dict[int, Any] = {}

    def old(self: Any, gate: Gate) -> None:
        init(self, gate)
        self._generation = first.setdefault(id(gate), gate.generation)

    patch.setattr(RequestMachine, "__init__", old)


def check_then_act(patch: pytest.MonkeyPatch) -> None:
    """What is held by others is not counted when it is asked whether a request fits."""
    reserve = EmbeddedLedger.reserve

    def settled_only(self: Any, name: str, account: Any, *rest: Any) -> Any:
        held = [(c, c.reserved) for c in self._counters.values()]
        for counter, reserved in held:
            counter.total -= reserved
        try:
            return reserve(self, name, account, *rest)
        finally:
            for counter, reserved in held:
                counter.total += reserved

    patch.setattr(EmbeddedLedger, "reserve", settled_only)


def forgets_in_a_crash(patch: pytest.MonkeyPatch) -> None:
    """A restart begins with an empty ledger."""
    patch.setattr(Journal, "replay", lambda self: iter(()))


def marks_before_writing(patch: pytest.MonkeyPatch) -> None:
    """A segment counts as complete while its records are in the buffer (a bug that was there)."""

    def complete(self: Any, now_ms: int) -> None:
        self.append(["complete", now_ms])
        (self._folder / f"usage-{self.segment:06d}.complete").touch()

    patch.setattr(Journal, "complete", complete)


def believes_interim_usage(patch: pytest.MonkeyPatch) -> None:
    """The count of a cut stream is taken for its last word."""
    reported = settlement.reported_usage

    def final(operation: Any, event: Any) -> Any:
        found = reported(operation, event)
        return found and found._replace(final=True)

    patch.setattr(settlement, "reported_usage", final)


def zero_without_usage(patch: pytest.MonkeyPatch) -> None:
    """Whatever reports no usage is free."""
    patch.setattr(
        settlement,
        "_end_without_usage",
        lambda attempt, ending: settlement._release(attempt, "nothing reported"),
    )


def loses_a_log_batch(patch: pytest.MonkeyPatch) -> None:
    """One bad entry loses the others of its batch."""
    message = AccessLogService.message

    def drops(self: Any, stream: Any, data: bytes) -> None:
        if len(data) < 150:
            message(self, stream, data)

    patch.setattr(AccessLogService, "message", drops)


def keeps_the_dead(patch: pytest.MonkeyPatch) -> None:
    """Requests whose log never comes stay in the gate (a bug that was there)."""
    patch.setattr(Gate, "forget_silent", lambda self, now_ms: None)


def refuses_after_reserving(patch: pytest.MonkeyPatch) -> None:
    """A request is refused and its reservation stays."""
    on_reserved = RequestMachine.on_reserved

    def refuses(self: Any, event: Any) -> Any:
        command = on_reserved(self, event)
        if isinstance(event.outcome, Granted) and self._amounts[Unit.MICRO_USD] % 3 == 0:
            return self._refuse(refusals.INVALID_CREDENTIAL)
        return command

    def believes(_: Any, machine: Any, command: Reserve, granted: Granted) -> Any:
        return machine.on_reserved(Reserved(granted, command.now_ms))

    patch.setattr(RequestMachine, "on_reserved", refuses)
    patch.setattr(RequestService, "_granted", believes)


def keeps_every_body(patch: pytest.MonkeyPatch) -> None:
    """A request that is over is still counted among those whose bodies are kept."""
    patch.setattr(Gate, "let_go", lambda self, entry: None)


def begins_with_what_left(patch: pytest.MonkeyPatch) -> None:
    """A later attempt begins with what was made of the request for the first target."""
    on_body = AttemptMachine.on_body

    def forgets(self: Any, body: bytes, now_ms: int) -> Any:
        entry = self._gate.in_flight.get(self._event.request_id)
        if entry is not None:
            entry.changed = False
        return on_body(self, body, now_ms)

    patch.setattr(AttemptMachine, "on_body", forgets)


BUGS: list[tuple[Plant, str, dict[str, float]]] = [
    (double_settle, "I3", PEACE),
    (missing_release, "I5", FAILING),
    (early_return, "I12", PEACE),
    (ends_with_ok, "I6", PEACE),
    (reserves_after_sending, "I1", PEACE),
    (answers_before_writing, "I1", PEACE),
    (unreserved_attempts, "I1", FAILING),
    (lease_gives_back, "I5", {**PEACE, "lost_logs": 0.5}),
    (leases_never_end, "I4", {**PEACE, "lost_logs": 0.5}),
    (stale_snapshot, "I7", {**PEACE, "reloads": 1.0}),
    (never_reloads, "I7", {**PEACE, "reloads": 1.0}),
    (check_then_act, "I2", PEACE),
    (forgets_in_a_crash, "I", {**PEACE, "kills": 0.01}),
    (marks_before_writing, "I2", {**PEACE, "kills": 0.04, "small_segments": 1.0}),
    (believes_interim_usage, "I5", FAILING),
    (zero_without_usage, "I5", FAILING),
    (loses_a_log_batch, "I5", PEACE),
    (keeps_the_dead, "I12", {**FAILING, "lost_logs": 0.5}),
    (refuses_after_reserving, "I6", PEACE),
    (keeps_every_body, "kept", PEACE),
    (begins_with_what_left, "another's", FAILING),
]


@pytest.mark.parametrize(
    ("plant", "invariant", "mix"), BUGS, ids=[plant.__name__ for plant, _, _ in BUGS]
)
def test_a_planted_bug_is_caught(
    plant: Plant, invariant: str, mix: dict[str, float], sim_folder: Path, monkeypatch
) -> None:
    plant(monkeypatch)
    caught = ""
    for seed in range(SEEDS):
        try:
            _world(seed, sim_folder / str(seed), mix).run()
        except Violation as violation:
            caught = str(violation)
            break
    assert caught.startswith(invariant), caught or "not caught"


def test_without_a_bug_the_same_worlds_are_sound(sim_folder: Path) -> None:
    for number, (_, _, mix) in enumerate(BUGS):
        _world(number, sim_folder / str(number), mix).run()


def _world(seed: int, folder: Path, mix: dict[str, float]) -> Simulation:
    # Crowded, so that much happens at once; with deaths there must be time to come back.
    length_ms = 20_000 if mix["kills"] else 2_000
    return Simulation(seed, folder, mix=mix, sidecars=1, calls=40, length_ms=length_ms)
