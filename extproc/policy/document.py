"""The four kinds of policy document, and who reads each.

Values are checked there against their own type; names that refer to other documents are resolved by
the compiler, which knows them all.
"""

from __future__ import annotations

from extproc.policy.gateway_documents import read_gateway
from extproc.policy.limit_documents import read_budgets, read_rate_limits
from extproc.policy.model_documents import read_virtual_model

READERS = {
    "gateway-rate-limit-config": read_rate_limits,
    "gateway-budget-config": read_budgets,
    "gateway-load-balancing-config": read_virtual_model,
    "gateway-config": read_gateway,
}
