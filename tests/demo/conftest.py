from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import botocore.session
import httpx
import openai
import pytest
from botocore.config import Config
from demo_provider import Demo
from google import genai


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    bill = tmp_path_factory.mktemp("demo") / "bill.jsonl"
    command = [sys.executable, "-m", "extproc", "demo-provider", "--listen", "127.0.0.1:0"]
    process = subprocess.Popen([*command, "--bill", bill], stdout=subprocess.PIPE, text=True)
    try:
        yield process.stdout.readline().removeprefix("ready ").strip(), bill
        process.terminate()
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.stdout.close()


@pytest.fixture
def demo(server: tuple[str, Path]) -> Demo:
    httpx.delete(f"{server[0]}/faults").raise_for_status()
    httpx.delete(f"{server[0]}/bill").raise_for_status()
    return Demo(server[0])


@pytest.fixture
def openai_sdk(demo: Demo) -> openai.OpenAI:
    return openai.OpenAI(base_url=demo.openai_url, api_key="sk-test-one1", max_retries=0)


@pytest.fixture
def anthropic_sdk(demo: Demo) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=demo.anthropic_url, api_key="sk-ant-two2", max_retries=0)


@pytest.fixture
def google_sdk(demo: Demo) -> genai.Client:
    return genai.Client(api_key="AIza-three3", http_options={"base_url": demo.gemini_url})


@pytest.fixture
def bedrock_sdk(demo: Demo) -> Any:
    return botocore.session.get_session().create_client(
        "bedrock-runtime",
        region_name="eu-central-1",
        endpoint_url=demo.bedrock_url,
        aws_access_key_id="AKIDEXAMPLEfour4",
        aws_secret_access_key="secret",
        config=Config(retries={"total_max_attempts": 1}),
    )
