"""What the documents say, held against the code."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex

import httpx
import pytest
from command import ROOT
from gateway import Gateway
from world import World

from extproc.__main__ import COMMANDS, parser
from extproc.demo.faults import Faults
from extproc.demo.provider import DemoProvider
from extproc.edge.metrics import Metrics
from extproc.ledger.redis_errors import meaning
from extproc.policy.compiler import compile_folder
from extproc.policy.snapshot import PolicySnapshot
from extproc.values.dialect import OPERATION_BY_PATH
from extproc.values.refusal import STATUS_OF, RefusalCode
from extproc.values.wire_names import ANSWER_HEADERS
from extproc.wire.headers import TIMEOUT_HEADERS, HeaderNames

PAGES = [
    ROOT / "README.md",
    ROOT / "ARCHITECTURE.md",
    ROOT / "envoy" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
TEXT = {str(page.relative_to(ROOT)): page.read_text() for page in PAGES}
INTERFACE = TEXT["docs/interface.md"]
SOURCE = "".join(
    path.read_text() for path in (ROOT / "extproc").rglob("*") if path.suffix in (".py", ".lua")
)


def section(text: str, title: str) -> str:
    assert f"\n## {title}\n" in text, title
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def table_names(text: str) -> set[str]:
    """What stands in backticks in the first column of a table."""
    cells = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


# -- policy ---------------------------------------------------------------------------------------


def yaml_blocks(name: str) -> list[str]:
    return re.findall(r"^```yaml\n(.*?)^```", TEXT[name], re.MULTILINE | re.DOTALL)


REFUSED = re.compile(r"# refused: (\w+)\n")
GOOD = {name: [b for b in yaml_blocks(name) if not REFUSED.match(b)] for name in TEXT}
BAD = [(name, block) for name in TEXT for block in yaml_blocks(name) if REFUSED.match(block)]


def compiled(blocks: list[str]) -> object:
    files = {f"{number}.yaml": block.encode() for number, block in enumerate(blocks)}
    return compile_folder(files, 1, {"ANTHROPIC_API_KEY": "x"}, "http://127.0.0.1:9")


@pytest.mark.parametrize("name", [name for name in GOOD if GOOD[name]])
def test_the_examples_of_a_page_are_one_policy_that_loads(name: str) -> None:
    policy = compiled(GOOD[name])
    assert isinstance(policy, PolicySnapshot), list(map(str, policy))  # type: ignore[call-overload]
    assert [str(warning) for warning in policy.warnings if warning.code.startswith("pending")] == []


@pytest.mark.parametrize(("name", "block"), BAD, ids=lambda text: text.split("\n")[0])
def test_an_example_that_is_refused_is_refused_for_that_reason(name: str, block: str) -> None:
    marker = REFUSED.match(block)
    assert marker is not None
    findings = compiled([*GOOD[name], block])
    assert isinstance(findings, list)
    assert [finding.code for finding in findings] == [marker[1]]
    assert findings[0].line > 0


def test_there_are_examples_of_every_type() -> None:
    blocks = "".join(GOOD["docs/policy.md"])
    for kind in re.findall(r'^    "(gateway-[a-z-]+)": read_', SOURCE, re.MULTILINE):
        assert f"type: {kind}\n" in blocks
    assert len(BAD) >= 3


# -- commands -------------------------------------------------------------------------------------


def mentions() -> list[tuple[str, str]]:
    found = []
    for name, text in TEXT.items():
        spans = re.findall(r"`(tokenweir [^`]+)`", text)
        shell = re.findall(r"^\$ (?:\S+/)?(tokenweir .*?)(?:  +#.*)?$", text, re.MULTILINE)
        found += [(name, " ".join(span.split())) for span in (*spans, *shell)]
    make = (ROOT / "Makefile").read_text().replace("$(BIN)/", "")
    return found + [("Makefile", line) for line in re.findall(r"^\t(tokenweir .*)$", make, re.M)]


def options_of(command: str) -> dict[str, object]:
    actions = parser()._subparsers._group_actions[0].choices[command]._actions  # type: ignore
    return {name: action for action in actions for name in action.option_strings}


@pytest.mark.parametrize(("page", "mention"), mentions(), ids=lambda text: text[:60])
def test_every_command_mentioned_exists_with_its_options(page: str, mention: str) -> None:
    words = mention.replace("[", "").replace("]", "").split()
    if words[1] == "COMMAND" or words[1].startswith("--"):
        return
    assert words[1] in COMMANDS, page
    for word in words[2:]:
        if word.startswith("--"):
            assert word.partition("=")[0] in options_of(words[1]), page


def test_commands_are_mentioned_in_the_places_this_test_reads() -> None:
    pages = {page for page, _ in mentions()}
    assert {"README.md", "docs/interface.md", "docs/demo-provider.md", "Makefile"} <= pages


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_in_the_interface(command: str) -> None:
    assert f"`tokenweir {command}" in section(INTERFACE, "Commands")


def test_every_make_target_mentioned_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for name, text in TEXT.items():
        for target in re.findall(r"(?:`|\$ )make ([a-z-]+)", text):
            assert target in targets, name


def test_every_file_of_the_repository_that_is_named_exists() -> None:
    named = re.compile(r"`((?:docs|extproc|tests|configs|loadtest|proto)/[\w./*-]*)`")
    ignored = (ROOT / ".gitignore").read_text().split()  # made by a command, not in the repository
    for name, text in TEXT.items():
        for path in named.findall(text):
            assert f"/{path}" in ignored or list(ROOT.glob(path.rstrip("/"))), f"{name}: {path}"


# -- the usage log --------------------------------------------------------------------------------


def test_the_records_are_those_that_are_written_and_understood() -> None:
    text = section(TEXT["docs/ledger.md"], "Records")
    documented = set(re.findall(r'`\["(\w+)"', text))
    ledger = ROOT / "extproc" / "ledger"
    written = "".join((ledger / name).read_text() for name in ("embedded.py", "journal.py"))
    kinds = set(re.findall(r'(?:append\(|^ +)\[\s*"(\w+)"', written, re.MULTILINE)) | {
        "s",
        "x",
        "l",
    }
    understood = set(re.findall(r'kind == "(\w+)"', (ledger / "log_replay.py").read_text()))
    understood |= {"s", "x", "l"}
    assert kinds == documented - {"e", "u", "d"}
    assert kinds <= understood


# -- headers, refusals, metrics, paths ------------------------------------------------------------


def test_the_request_headers_are_those_that_are_read() -> None:
    text = section(INTERFACE, "Request headers")
    names = HeaderNames("x-tfy-")
    documented = set(re.findall(r"`((?:x-|session-)[a-z-]+)`", text)) - {"x-tfy-"}
    assert documented == set(names.identity) | set(TIMEOUT_HEADERS)


def test_the_answer_headers_are_those_that_are_sent() -> None:
    documented = table_names(section(INTERFACE, "Answer headers"))
    steering = {"retry-after", "x-should-retry"}
    assert documented == {"x-request-id", "x-tfy-resolved-model"} | steering | set(
        ANSWER_HEADERS.values()
    )
    assert '"x-tfy-resolved-model"' in SOURCE
    refusals = (ROOT / "extproc/wire/error_body.py").read_text()
    sent = re.findall(r'headers.append\(\("([a-z-]+)"', refusals)
    assert set(sent) == steering


@pytest.mark.parametrize("name", TEXT)
def test_every_header_mentioned_anywhere_is_in_the_code(name: str) -> None:
    known = set(HeaderNames("x-tfy-").identity) | {"x-tfy-", "x-api-key", "x-demo-output-tokens"}
    for header in re.findall(r"(?<![\w-])(x-[a-z]+(?:-[a-z]+)+)\b(?!-\*|\*)", TEXT[name].lower()):
        assert header in known or header in SOURCE.lower(), header


def test_the_refusals_are_those_of_the_code_with_their_status() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \|", section(INTERFACE, "Refusals"), re.MULTILINE)
    assert {code: int(status) for code, status in rows} == {
        code.value: STATUS_OF[code] for code in RefusalCode
    }


def test_the_metrics_are_those_that_are_rendered() -> None:
    metrics = Metrics()
    metrics.refused[RefusalCode.NOT_FOUND] = 1
    metrics.would_block["r"] = 1
    metrics.policy_warnings["w"] = 1
    metrics.tool_calls["s", "t", "admitted"] = 1
    metrics.google_tokens["f"] = (1, 0)
    metrics.target_states["p/m"] = "closed"
    metrics.velocity_trips["r"] = metrics.velocity_open["r"] = 1
    lines = metrics.render(World().gate).decode().splitlines()
    rendered = {re.split(r"[ {]", line)[0] for line in lines if not line.startswith("#")}
    assert table_names(section(INTERFACE, "The console port")) == rendered


def test_the_paths_are_those_that_are_served() -> None:
    text = section(INTERFACE, "Paths")
    documented = set(re.findall(r"/v1/[a-z/_]+", text))
    assert documented == {path for path in OPERATION_BY_PATH if path.startswith("/v1/")}
    others = {path for path in OPERATION_BY_PATH if not path.startswith("/v1/")}
    assert all(path.startswith("/api/llm/api/inference/openai/") for path in others)


def test_the_reasons_of_a_closed_store_are_those_of_the_code() -> None:
    documented = table_names(TEXT["docs/shared-store.md"])
    for reason in documented:
        assert f'"{reason}"' in SOURCE, reason
    messages = ("READONLY", "LOADING", "MISCONF", "OOM", "BUSY", "NOPERM", "MOVED", "NOREPLICAS")
    reasons = {meaning(message)[0] for message in messages}
    assert reasons | {"timeout", "connection", "amnesia", "configuration"} <= documented


# -- the demo provider ----------------------------------------------------------------------------


def test_the_faults_are_those_of_the_demo_provider() -> None:
    documented = table_names(section(TEXT["docs/demo-provider.md"], "Faults"))
    assert documented == {field.name for field in dataclasses.fields(Faults)}


def test_the_demo_providers_routes_are_those_it_has() -> None:
    text = TEXT["docs/demo-provider.md"]
    routes = {
        (route.method, re.sub(r"\{(\w+)[^}]*\}", r"{\1}", route.resource.canonical))
        for route in DemoProvider().application().router.routes()
        if route.resource is not None
    }
    mentioned = re.findall(r"`(GET|PUT|DELETE|POST) (/[\w/{}:]+)", text)
    assert len(mentioned) >= 6
    for method, path in mentioned:
        assert (method, path) in routes
    for base, rest in re.findall(r"^- `(/\{provider\}\S+)` \+ (.*)$", text, re.MULTILINE):
        for operation in re.findall(r"`([a-z_/]+)`", rest):
            assert {(m, base + operation) for m in ("GET", "POST")} & routes, operation


# -- the README's first steps ---------------------------------------------------------------------


@pytest.fixture
def shipped(module_gateway, monkeypatch: pytest.MonkeyPatch) -> Gateway:
    for name in [name for name in os.environ if name.endswith("_API_KEY")]:
        monkeypatch.delenv(name)  # the demo provider is to answer, also on a developer's machine
    return module_gateway({path.name: path.read_text() for path in (ROOT / "configs").glob("*")})


def test_the_readmes_curl_is_answered_as_shown(shipped: Gateway) -> None:
    block = TEXT["README.md"].partition("$ curl -i ")[2].partition("```")[0]
    command, _, answer = block.partition("\nHTTP/1.1 200 OK\n")
    url, *words = shlex.split(command.replace("\\\n", " "))
    headers = dict(words[at + 1].split(": ") for at, word in enumerate(words) if word == "-H")
    path = url.removeprefix("http://127.0.0.1:8080")
    got = httpx.post(shipped.url + path, headers=headers, content=words[words.index("-d") + 1])
    assert got.status_code == 200, got.text
    shown, _, body = answer.partition("\n\n")
    for line in shown.splitlines():
        name, _, value = line.partition(": ")
        assert name in got.headers
        if name == "x-tfy-applied-rules":
            assert got.headers[name] == value
    for key in re.findall(r'"(\w+)":', body):
        assert f'"{key}"' in got.text


@pytest.mark.parametrize(
    "code", re.findall(r"^```python\n(.*?)^```", TEXT["README.md"], re.MULTILINE | re.DOTALL)
)
def test_the_readmes_scripts_run(shipped: Gateway, code: str, capsys) -> None:
    assert "http://127.0.0.1:8080" in code
    exec(code.replace("http://127.0.0.1:8080", shipped.url), {})
    model, tokens = capsys.readouterr().out.split()
    assert "haiku" in model
    assert int(tokens) > 0
