"""Channels and ``notify``: every key is read, every mistake is named, no secret is repeated."""

from __future__ import annotations

import pytest
from policies import budget, codes, compiled, rule, snapshot

from extproc.policy.channel_documents import MAX_DESTINATIONS, destination_fault
from extproc.policy.snapshot import Channels, CredentialRef, PolicySnapshot, WebhookChannel
from extproc.values.limit import Alert

CANARY = "xoxb-0123-canary"
TOO_MANY = [f"slack:#c{number}" for number in range(MAX_DESTINATIONS + 1)]
ALL = """
  slack: {webhook: "env:SLACK_WEBHOOK"}
  pagerduty: {routing_keys: {platform: "file:/run/secrets/pd", search: "env:PD_SEARCH"}}
  webhooks:
    audit: {url: "https://audit.example/hook", secret: "env:AUDIT_SECRET"}
    hidden: {url: "env:HIDDEN_URL"}
  email: {host: mail.example, from: gateway@example.com, username: gw, password: "env:MAIL"}
"""


def channels(text: str) -> str:
    return f"name: c\ntype: gateway-config\nchannels: {text}\n"


def alerts(text: str) -> str:
    return budget(f"{{id: a, ceiling_usd: 1, window: daily, alerts: [{text}]}}")


def notify(*names: str) -> str:
    listed = ", ".join(f'"{name}"' for name in names)
    return alerts(f"{{at_pct: 80, notify: [{listed}]}}")


def test_every_kind_is_read_with_its_defaults() -> None:
    found = snapshot(c=channels(ALL)).channels
    assert found.slack is not None
    assert found.slack.webhook == CredentialRef("env", "SLACK_WEBHOOK")
    assert (found.slack.bot_token, found.slack.api_url) == (None, "https://slack.com/api/")
    assert found.pagerduty is not None
    assert found.pagerduty.routing_keys["platform"] == CredentialRef("file", "/run/secrets/pd")
    assert found.pagerduty.api_url == "https://events.pagerduty.com"
    assert found.webhooks == {
        "audit": WebhookChannel("https://audit.example/hook", CredentialRef("env", "AUDIT_SECRET")),
        "hidden": WebhookChannel(CredentialRef("env", "HIDDEN_URL"), None),
    }
    assert found.email is not None
    assert (found.email.host, found.email.port, found.email.tls) == (
        "mail.example",
        587,
        "starttls",
    )
    assert (found.email.sender, found.email.username) == ("gateway@example.com", "gw")
    assert found.email.password == CredentialRef("env", "MAIL")


def test_a_bot_and_the_ports_of_the_other_mail_protocols() -> None:
    text = '{slack: {bot_token: "env:T", api_url: "https://relay.example/api"}}'
    found = snapshot(c=channels(text)).channels
    assert found.slack is not None
    assert found.slack.bot_token == CredentialRef("env", "T")
    assert found.slack.api_url == "https://relay.example/api"
    for tls, port in (("tls", 465), ("none", 25)):
        text = f"{{email: {{host: m, from: a@b.c, tls: {tls}}}}}"
        email = snapshot(c=channels(text)).channels.email
        assert email is not None
        assert email.port == port


def test_kinds_may_stand_in_several_documents_but_each_only_once() -> None:
    slack, mail = '{slack: {webhook: "env:S"}}', "{email: {host: m, from: a@b.c, tls: none}}"
    found = snapshot(c=channels(slack), d=channels(mail)).channels
    assert found.slack is not None
    assert found.email is not None
    assert codes(c=channels(slack), d=channels(slack)) == ["duplicate_name"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{slack: {}}", "missing_key"),
        ('{slack: {webhook: "env:A", bot_token: "env:B"}}', "missing_key"),
        (f"{{slack: {{webhook: {CANARY}}}}}", "literal_secret"),
        (f'{{slack: {{webhook: "https://hooks.slack.com/{CANARY}"}}}}', "literal_secret"),
        ('{slack: {bot_token: "env:T", api_url: "slack"}}', "bad_url"),
        (f'{{slack: {{bot_token: "env:T", api_url: "https://u:{CANARY}@s"}}}}', "literal_secret"),
        ("{pagerduty: {}}", "missing_key"),
        (f"{{pagerduty: {{routing_keys: {{platform: {CANARY}}}}}}}", "literal_secret"),
        ('{pagerduty: {routing_keys: {"a b": "env:A"}}}', "bad_id"),
        ('{pagerduty: {routing_keys: {a: "env:A"}, api_url: "http://x"}}', "bad_url"),
        ("{webhooks: {a: {}}}", "missing_key"),
        (f'{{webhooks: {{a: {{url: "https://h/x?token={CANARY}"}}}}}}', "literal_secret"),
        (f'{{webhooks: {{a: {{url: "https://{CANARY}@h/x"}}}}}}', "literal_secret"),
        ('{webhooks: {a: {url: "https://"}}}', "bad_url"),
        (f'{{webhooks: {{a: {{url: "ftp:{CANARY}"}}}}}}', "literal_secret"),
        (f'{{webhooks: {{a: {{url: "https://h", secret: {CANARY}}}}}}}', "literal_secret"),
        ("{email: {from: a@b.c}}", "missing_key"),
        ("{email: {host: m}}", "missing_key"),
        ('{email: {host: "a b", from: a@b.c}}', "bad_host"),
        ('{email: {host: m, from: "A <a@b.c>"}}', "bad_address"),
        ("{email: {host: m, from: a@b.c, tls: maybe}}", "bad_value"),
        ("{email: {host: m, from: a@b.c, port: 0}}", "out_of_range"),
        ("{email: {host: m, from: a@b.c, username: u}}", "missing_key"),
        (f"{{email: {{host: m, from: a@b.c, username: u, password: {CANARY}}}}}", "literal_secret"),
        (
            '{email: {host: m, from: a@b.c, username: u, password: "env:P", tls: none}}',
            "open_password",
        ),
        ("{teams: {}}", "unknown_key"),
        ('{slack: {webhook: "env:A", chanel: x}}', "unknown_key"),
    ],
)
def test_what_is_wrong_with_a_channel_is_named_and_no_secret_repeated(text: str, code: str) -> None:
    findings = compiled(c=channels(text))
    assert isinstance(findings, list)
    assert {finding.code for finding in findings} == {code}
    assert all(finding.line > 0 for finding in findings)
    assert CANARY not in "".join(map(str, findings))


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("slack:#ai-budget-alerts", ""),
        ("slack:C0123ABC", ""),
        ("slack:", "bad_channel"),
        ("slack:#a b", "bad_channel"),
        ("slack:<!channel>", "bad_channel"),
        ("pagerduty:platform", ""),
        ("pagerduty:plattform", "unknown_channel"),
        ("webhook:audit", ""),
        ("webhook:other", "unknown_channel"),
        ("email:Ops.Team+ai@example.co.uk", ""),
        ("email:ops", "bad_channel"),
        ("email:a@b.c\\r\\nBcc: x@y.z", "bad_channel"),
        ("teams:x", "bad_channel"),
        ("platform", "bad_channel"),
    ],
)
def test_a_destination_must_have_the_form_and_the_name_of_one(name: str, code: str) -> None:
    assert codes(c=channels(ALL), b=notify(name)) == ([code] if code else [])


def test_destinations_may_be_checked_one_by_one() -> None:
    assert destination_fault("slack:#x", Channels())[0] == "channel_unset"
    assert destination_fault("slack:#x", snapshot(c=channels(ALL)).channels) == ("", "")


def test_a_kind_that_nobody_configures_is_warned_of_once_and_loads() -> None:
    policy = compiled(
        b=notify("slack:#a", "pagerduty:p"), r=rule(
            '{id: r, limit: {requests: 9, window: 1h}, alerts: [{at_pct: 80, notify: "slack:#b"}]}'
        ),
    )  # fmt: skip
    assert isinstance(policy, PolicySnapshot)
    warnings = [w.message for w in policy.warnings if w.code == "channel_unset"]
    assert sorted(text.split()[0] for text in warnings) == ["pagerduty", "slack"]
    assert policy.limits[0].alerts == (Alert(80, ("slack:#a", "pagerduty:p")),)


def test_a_variable_that_is_not_set_is_warned_of_where_it_is_named() -> None:
    policy = snapshot(c=channels(ALL))  # compiled with an empty environment
    unset = [w for w in policy.warnings if w.code == "channel_unset"]
    # The key in a file is not looked at: it may come later.
    assert len(unset) == 5
    assert all(w.file == "c.yaml" and w.line > 3 for w in unset)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{at_pct: 80}", "missing_key"),
        ("{at_pct: 80, notify: []}", "missing_key"),
        ('{notify: "slack:#x"}', "missing_key"),
        ('{at_pct: 80, forecast: 6h, notify: "slack:#x"}', "missing_key"),
        ('{at_pct: 0, notify: "slack:#x"}', "out_of_range"),
        ('{forecast: soon, notify: "slack:#x"}', "bad_duration"),
        ('{forecast: 60d, notify: "slack:#x"}', "bad_duration"),
        ('{at_pct: 80, notify: "slack:#x"}, {at_pct: 80, notify: "slack:#y"}', "duplicate_alert"),
        (f"{{at_pct: 80, notify: {TOO_MANY}}}", "too_many"),
        ('{at_pct: 80, notify: "slack:#x", colour: red}', "unknown_key"),
    ],
)
def test_what_is_wrong_with_an_alert_is_named(text: str, code: str) -> None:
    assert codes(b=alerts(text)) == [code]


def test_alerts_are_in_the_order_in_which_they_are_reached() -> None:
    text = '{forecast: 6h, notify: "slack:#x"}, {at_pct: 100, notify: "slack:#x"},'
    text += '{at_pct: 80, notify: ["slack:#x", "slack:#x"]}'
    assert snapshot(b=alerts(text)).limits[0].alerts == (
        Alert(80, ("slack:#x",)),
        Alert(100, ("slack:#x",)),
        Alert(0, ("slack:#x",), 21_600_000),
    )


def test_a_forecast_needs_a_window_that_can_be_foreseen() -> None:
    def limit(window: str) -> str:
        alert = '{forecast: 10m, notify: "slack:#x"}'
        return rule(f"{{id: r, limit: {{requests: 9, window: {window}}}, alerts: [{alert}]}}")

    assert codes(r=limit("59m")) == ["bad_forecast"]
    assert codes(r=limit("1h")) == []
