"""The four kinds of policy document, and who reads each.

Values are checked there against their own type; names that refer to other documents are resolved by
the compiler, which knows them all.
"""

from __future__ import annotations

from extproc.policy.drafts import Drafts
from extproc.policy.gateway_documents import read_gateway
from extproc.policy.limit_documents import read_budgets, read_rate_limits
from extproc.policy.model_documents import read_virtual_model
from extproc.policy.reading import Section
from extproc.policy.velocity_documents import read_velocity


def read_budget_document(document: Section, drafts: Drafts) -> None:
    """``type: gateway-budget-config``: ceilings on sums, and on how fast they grow."""
    read_budgets(document, drafts)
    read_velocity(document, drafts)


READERS = {
    "gateway-rate-limit-config": read_rate_limits,
    "gateway-budget-config": read_budget_document,
    "gateway-load-balancing-config": read_virtual_model,
    "gateway-config": read_gateway,
}
