"""The official SDKs as callers of a module's ``gateway``. They try nothing again."""

from __future__ import annotations

import anthropic
import openai
import pytest
from gateway import KEY, Gateway


@pytest.fixture
def chat(gateway: Gateway) -> openai.OpenAI:
    return openai.OpenAI(base_url=gateway.url + "/v1", api_key=KEY, max_retries=0)


@pytest.fixture
def claude(gateway: Gateway) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=gateway.url, api_key=KEY, max_retries=0)
