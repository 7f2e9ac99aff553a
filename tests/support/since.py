"""What a piece of a test costs."""

from __future__ import annotations

from gateway import Gateway


class Since:
    """What has come to the ledger, and to the providers' bill, since this was made. The policy has
    a budget ``all``."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._settled = gateway.settled("all/usd")
        self._lines = len(gateway.bill())
        self._micro_usd = gateway.billed_micro_usd()

    @property
    def lines(self) -> int:
        """Of the bill before."""
        return self._lines

    @property
    def asked(self) -> list[str]:
        """The providers that were asked, in order."""
        return [line["provider"] for line in self._gateway.bill()[self._lines :]]

    @property
    def money(self) -> tuple[int, int]:
        """By the ledger, and by the bill, which a provider writes when it notices the end."""
        settled = self._gateway.settled("all/usd") - self._settled
        return settled, self._gateway.billed_micro_usd() - self._micro_usd
