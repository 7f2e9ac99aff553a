"""One script call that carries many operations: its bytes, and what its answer means.

What is the same for every request of an account (its keys and the shape of its counters) is encoded
once and kept; per request there is one short text.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import Sequence
from typing import Any

import msgspec

from extproc.ledger.port import Account, Denied, Granted, Hold, Outcome, Remaining, Standing
from extproc.ledger.redis_names import Names, window_name
from extproc.values.limit import NO_CEILING, Amounts, Limit
from extproc.values.money import MAX_AMOUNT
from extproc.values.window import SlidingWindow

SETTLED, RELEASED, EXPIRED, ABANDONED, OVERDUE = "s", "l", "x", "a", "q"
"""How a reservation ends: the last two for one whose outcome is unknown, and for one of a sidecar
that is no more."""
RENEWED, CORRECTED = "b", "k"

_SHOWN = (0, 1, 1, 1, 2, 3)
"""By unit: requests, the three kinds of tokens, strict money, statistical money."""
_MONEY, _LIKELY_MONEY, _KINDS = 2, 3, 4

pack = msgspec.msgpack.Encoder().encode


class AccountPlan:
    """An account as the store sees it, in one epoch."""

    __slots__ = (
        "account",
        "encoded_keys",
        "epoch",
        "formers",
        "holds",
        "shadows",
        "shape",
        "twin",
        "valid_until_ms",
    )

    def __init__(self, account: Account, names: Names, epoch: str, now_ms: int) -> None:
        self.account = account
        self.twin = Account(account.holds, account.about)
        """The same, for the sidecar's own part, which has a memo of its own."""
        self.epoch = epoch
        keys = [names.counter(epoch, hold.limit.key, hold.scope_value) for hold in account.holds]
        self.encoded_keys = b"".join(map(bulk, keys))
        self.formers = [
            names.counter(epoch, hold.limit.renamed_from, hold.scope_value)
            if hold.limit.renamed_from
            else b""
            for hold in account.holds
        ]
        """By hold: the key of its rule's former name, empty for most."""
        self.holds: list[tuple[int, int, int]] = []
        """Place, ceiling and kind (``_SHOWN``) of each enforced hold."""
        self.shadows: list[tuple[int, Limit]] = []
        for place, hold in enumerate(account.holds):
            if hold.ceiling >= NO_CEILING:
                self.shadows.append((place, hold.limit))
            else:
                self.holds.append((place, hold.ceiling, _SHOWN[hold.limit.unit]))
        self.shape = b""
        self.valid_until_ms = 0
        self.fit(now_ms)

    def renewed(self, names: Names, epoch: str, now_ms: int) -> AccountPlan:
        """The plan in another epoch."""
        plan = AccountPlan(self.account, names, epoch, now_ms)
        plan.twin = self.twin
        return plan

    def fit(self, now_ms: int) -> None:
        """Encodes the windows as they are at ``now_ms``, with the calendar's next period."""
        words: list[int | str] = []
        self.valid_until_ms = NO_CEILING
        for (limit, _, ceiling), former in zip(self.account.holds, self.formers, strict=True):
            window = limit.window
            if isinstance(window, SlidingWindow):
                times = (window.slot_ms, 0, 0, 0)
            else:
                start = window.slot(now_ms)
                ends = window.slot_ends_ms(start)
                times = (0, start, ends, window.slot_ends_ms(ends))
                self.valid_until_ms = min(self.valid_until_ms, ends)
            shown = -1 if ceiling >= NO_CEILING else min(ceiling, MAX_AMOUNT)
            words += (int(limit.unit), shown, *times, window_name(window), former.decode())
        self.shape = bulk(pack(words))


class Asked:
    """A reservation that somebody waits for."""

    __slots__ = (
        "amounts",
        "deadline_s",
        "future",
        "id",
        "lease_ms",
        "lease_until_ms",
        "plan",
        "sent",
    )

    def __init__(
        self,
        reservation_id: str,
        plan: AccountPlan,
        amounts: Amounts,
        lease_ms: int,
        lease_until_ms: int,
        future: Future[Outcome],
    ) -> None:
        self.id = reservation_id
        self.plan = plan
        self.amounts = amounts
        self.lease_ms = lease_ms
        self.lease_until_ms = lease_until_ms
        self.deadline_s = 0.0
        self.future = future
        self.sent = 0
        """How often it was sent. Above zero its outcome may be unknown."""


class Told:
    """Something that the store must be told: the end of a reservation, a renewal, a correction."""

    __slots__ = ("amounts", "id", "journaled", "keys", "kind", "lease_ms", "plan", "record")

    def __init__(
        self,
        reservation_id: str,
        kind: str,
        amounts: Amounts,
        plan: AccountPlan | None = None,
        *,
        lease_ms: int = 0,
        journaled: bool = True,
    ) -> None:
        self.id = reservation_id
        self.kind = kind
        """How it ends, or ``RENEWED``, or ``CORRECTED``."""
        self.amounts = amounts
        self.plan = plan
        self.lease_ms = lease_ms
        self.keys = b""
        """Without a plan: the encoded keys of the counters that its record names."""
        self.record = b""
        """The key of its record, where the id is not known."""
        self.journaled = journaled
        """Whether the local journal remembers it until the store has confirmed it."""


class Question:
    """Counters that somebody wants to read."""

    __slots__ = ("deadline_s", "future", "plan", "sent")

    def __init__(self, plan: AccountPlan, future: Future[Sequence[Standing]]) -> None:
        self.plan = plan
        self.sent = 1
        self.deadline_s = 0.0
        self.future = future


Operation = Asked | Told | Question


class Batch:
    """The operations of one round trip."""

    __slots__ = ("epoch", "operations", "plans", "reloaded")

    def __init__(self, operations: Sequence[Operation], epoch: str) -> None:
        self.operations = operations
        self.epoch = epoch
        self.plans: dict[AccountPlan, int] = {}
        """Each account, and where its totals begin in the answer."""
        self.reloaded = False
        """Whether the scripts were sent once more for it."""

    def encode(self, digest: bytes, names: Names, seen: int, now_ms: int) -> bytes:
        """The command."""
        numbers: dict[AccountPlan, int] = {}
        key_parts = [bulk(names.meta), bulk(names.leases(self.epoch))]
        texts: list[bytes] = []
        records: list[bytes] = []
        extras: list[bytes] = []
        declared: set[AccountPlan] = set()
        counters = extra_keys = 0
        words: tuple[Any, ...]
        for operation in self.operations:
            if isinstance(operation, Told) and operation.kind != CORRECTED:
                if operation.kind == RENEWED:
                    words = ("b", operation.lease_ms, operation.amounts)
                else:
                    words = ("e", operation.kind, operation.amounts)
                plan = operation.plan
                if plan is not None:
                    declared.add(plan)
                elif operation.keys:
                    extras.append(operation.keys)
                    extra_keys += operation.keys.count(b"\r\n") // 2
            else:
                assert operation.plan is not None
                plan = operation.plan
                number = numbers.get(plan)
                if number is None:
                    number = numbers[plan] = len(numbers) + 1
                    self.plans[plan] = counters
                    counters += len(plan.account.holds)
                    key_parts.append(plan.encoded_keys)
                    for former in filter(None, plan.formers):
                        extras.append(bulk(former))
                        extra_keys += 1
                    if now_ms >= plan.valid_until_ms:
                        plan.fit(now_ms)
                if isinstance(operation, Asked):
                    words = ("r", number, operation.lease_ms, operation.amounts)
                elif isinstance(operation, Told):
                    limit = plan.account.holds[0].limit
                    words = ("k", number, operation.amounts[limit.unit])
                else:
                    words = ("p", number)
            texts.append(bulk(pack(words)))
            records.append(bulk(self.record(operation, names)))
        for plan in declared:
            if plan not in numbers:
                extras.append(plan.encoded_keys)
                extra_keys += len(plan.account.holds)
        keys = 2 + counters + len(records) + extra_keys
        count = 3 + keys + 3 + len(numbers) + len(texts)
        return b"".join(
            [
                b"*%d\r\n$7\r\nEVALSHA\r\n" % count,
                bulk(digest),
                bulk(b"%d" % keys),
                *key_parts,
                *records,
                *extras,
                bulk(self.epoch.encode()),
                bulk(b"%d" % seen),
                bulk(b"%d" % len(numbers)),
                *[plan.shape for plan in numbers],
                *texts,
            ]
        )

    def record(self, operation: Operation, names: Names) -> bytes:
        """The key of an operation's record; a question has none, but takes its place."""
        if isinstance(operation, Question):
            return names.meta
        if isinstance(operation, Told) and operation.record:
            return operation.record
        return names.record(self.epoch, operation.id)


def outcome(asked: Asked, result: Any, totals: Sequence[int], first: int, now_ms: int) -> Outcome:
    """What the store's answer to a reservation means; ``totals[first]`` is its first counter's.
    Raises ``ValueError`` for an id that has ended."""
    if result == 3:
        raise ValueError(f"reservation {asked.id} has ended")
    plan = asked.plan
    holds = plan.account.holds
    if isinstance(result, list):
        return Denied([_denied(holds[place], *rest) for place, *rest in result])
    least = [NO_CEILING] * _KINDS
    tightest: list[int] = [-1] * _KINDS
    for place, ceiling, kind in plan.holds:
        left = ceiling - totals[first + place]
        if left < least[kind]:
            least[kind] = left
            tightest[kind] = place
    remaining = []
    for kind, place in enumerate(tightest):
        if place >= 0:
            window = holds[place].limit.window
            empties_ms = window.leaves_ms(window.slot(now_ms))
            remaining.append(Remaining(holds[place], max(0, least[kind]), empties_ms))
    return Granted(
        remaining,
        [limit.rule_id for place, limit in plan.shadows if totals[first + place] > limit.ceiling],
        least[_MONEY],
        least[_LIKELY_MONEY],
    )


def standings(question: Question, result: Any, now_ms: int) -> list[Standing]:
    """What the store's answer to a question means."""
    found = []
    for hold, (_, settled, reserved, slot) in zip(question.plan.account.holds, result, strict=True):
        standing = _denied(hold, settled, reserved, slot)
        if settled + reserved <= hold.ceiling:
            window = hold.limit.window
            standing = standing._replace(resets_at_ms=window.slot_ends_ms(window.slot(now_ms)))
        found.append(standing)
    return found


def _denied(hold: Hold, settled: int, reserved: int, slot: int) -> Standing:
    resets_at_ms = hold.limit.window.leaves_ms(slot) if slot >= 0 else None
    return Standing(hold, settled, reserved, resets_at_ms)


def bulk(word: bytes) -> bytes:
    """One word of a command."""
    return b"$%d\r\n%b\r\n" % (len(word), word)
