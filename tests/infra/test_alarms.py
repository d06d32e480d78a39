"""Alarms and dashboard: what rings, what it says, and where it leads."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.infra.conftest import ROOT
from tests.infra.template import Assembly, Template

RUNBOOK = ROOT / "docs" / "runbook"
WANTED = {
    "authentication-failures",
    "borrow-latency",
    "borrow-timeouts",
    "certificate-expires",
    "clients-waiting",
    "clients-without-tls",
    "connections-near-limit",
    "event-loop-lag",
    "failed-deployments",
    "memory",
    "missing-tasks",
    "pinned-connections",
    "target-unavailable",
}


def alarms(template: Template) -> dict[str, Any]:
    """Alarms by the end of their names, which is their page."""
    found = template.of_type("AWS::CloudWatch::Alarm").values()
    return {alarm["AlarmName"].removeprefix("tidegate-").removeprefix("shop-"): alarm for alarm in found}


def test_everything_that_can_go_wrong_has_an_alarm(default: Assembly) -> None:
    assert set(alarms(default["proxy"])) == WANTED


def test_every_alarm_gives_reason_remedy_and_a_page_that_exists(default: Assembly, existing: Assembly) -> None:
    for name, alarm in alarms(default["proxy"]).items():
        reason, remedy, link = re.fullmatch(r"(.+?\.) (.+\.) Runbook: (\S+)", alarm["AlarmDescription"]).groups()  # type: ignore[union-attr]
        assert len(reason.split()) > 4, name
        assert len(remedy.split()) > 4, name
        assert link == f"docs/runbook/{name}.md"
        page = (ROOT / link).read_text()
        assert len(page) > 500
    for name, alarm in alarms(existing["proxy"]).items():
        assert alarm["AlarmDescription"].endswith(f"Runbook: https://example.com/runbook/{name}.md")


def test_every_page_belongs_to_an_alarm() -> None:
    assert {path.stem for path in RUNBOOK.glob("*.md")} == WANTED | {"README"}


def test_thresholds_are_as_promised(default: Assembly) -> None:
    found = alarms(default["proxy"])
    assert (found["borrow-latency"]["Threshold"], found["borrow-latency"]["ExtendedStatistic"]) == (1_000_000, "p99")
    assert found["connections-near-limit"]["Threshold"] == 90
    assert found["pinned-connections"]["Threshold"] == 30
    assert found["clients-without-tls"]["Threshold"] == 0
    assert found["borrow-timeouts"]["Threshold"] == 0
    waiting = found["clients-waiting"]
    # How long, not how many: on a busy proxy somebody always waits, for milliseconds.
    assert (waiting["MetricName"], waiting["Statistic"]) == ("BorrowLongestWait", "Maximum")
    assert (waiting["Threshold"], waiting["EvaluationPeriods"], waiting["Period"]) == (60, 1, 60)
    assert found["target-unavailable"]["ComparisonOperator"] == "LessThanThreshold"
    expires = found["certificate-expires"]
    assert (expires["Threshold"], expires["ComparisonOperator"]) == (14, "LessThanThreshold")
    # One task that still shows the old one is enough.
    assert expires["Statistic"] == "Minimum"
    assert all(alarm["TreatMissingData"] == "notBreaching" for alarm in found.values())


def test_alarms_and_their_end_are_sent_to_an_encrypted_topic(default: Assembly) -> None:
    proxy = default["proxy"]
    (topic,) = proxy.of_type("AWS::SNS::Topic")
    assert "KmsMasterKeyId" in proxy.one("AWS::SNS::Topic")
    for alarm in alarms(proxy).values():
        assert alarm["AlarmActions"] == alarm["OKActions"] == [{"Ref": topic}]
    keys = [key for name, key in proxy.of_type("AWS::KMS::Key").items() if "TopicKey" in name]
    senders = json.dumps(keys)
    assert "cloudwatch.amazonaws.com" in senders
    assert "events.amazonaws.com" in senders


def test_alarms_may_publish_to_their_topic(default: Assembly) -> None:
    proxy = default["proxy"]
    (topic,) = proxy.of_type("AWS::SNS::Topic")
    policy = proxy.one("AWS::SNS::TopicPolicy")
    assert policy["Topics"] == [{"Ref": topic}]
    allowed = {
        statement["Principal"]["Service"]: statement
        for statement in policy["PolicyDocument"]["Statement"]
        if statement["Effect"] == "Allow" and statement["Action"] == "sns:Publish"
    }
    assert set(allowed) == {"cloudwatch.amazonaws.com", "events.amazonaws.com"}
    assert all(statement["Resource"] == {"Ref": topic} for statement in allowed.values())
    (account,) = allowed["cloudwatch.amazonaws.com"]["Condition"]["StringEquals"].items()
    assert (account[0], proxy.text(account[1])) == ("aws:SourceAccount", "123456789012")


def test_a_fleet_without_any_task_misses_all_of_them(default: Assembly) -> None:
    queries = alarms(default["proxy"])["missing-tasks"]["Metrics"]
    (expression,) = [query["Expression"] for query in queries if "Expression" in query]
    # The balancer measures nothing while no task is registered.
    assert expression == "wanted - FILL(healthy, 0)"


def test_one_alarm_for_all_that_hurt_clients_rings_in_their_place(existing: Assembly, default: Assembly) -> None:
    proxy = existing["proxy"]
    rule = proxy.text(proxy.one("AWS::CloudWatch::CompositeAlarm")["AlarmRule"])
    together = {"borrow-timeouts", "clients-waiting", "missing-tasks", "target-unavailable"}
    silent = {name for name, alarm in alarms(proxy).items() if "AlarmActions" not in alarm}
    assert silent == together
    assert rule.count("ALARM(") == len(together)
    assert not default["proxy"].of_type("AWS::CloudWatch::CompositeAlarm")


def test_whoever_is_on_call_gets_a_mail(existing: Assembly) -> None:
    subscription = existing["proxy"].one("AWS::SNS::Subscription")
    assert (subscription["Protocol"], subscription["Endpoint"]) == ("email", "on-call@example.com")


def test_failed_deployments_of_this_service_are_noticed(default: Assembly) -> None:
    rule = default["proxy"].one("AWS::Events::Rule")
    assert rule["EventPattern"]["detail"] == {"eventName": ["SERVICE_DEPLOYMENT_FAILED"]}
    assert len(rule["EventPattern"]["resources"]) == 1
    assert len(rule["Targets"]) == 1


def test_the_dashboard_follows_a_query_from_top_to_bottom(default: Assembly) -> None:
    body = json.loads(default["proxy"].text(default["proxy"].one("AWS::CloudWatch::Dashboard")["DashboardBody"]))
    titles = [widget["properties"]["title"] for widget in sorted(body["widgets"], key=lambda w: (w["y"], w["x"]))]
    stations = [
        "Alarms",
        "Clients",
        "waiting",
        "Borrow latency",
        "Server connections",
        "Pins",
        "Database latency",
        "Errors",
        "Tasks",
    ]
    places = [next(index for index, title in enumerate(titles) if station in title) for station in stations]
    assert places == sorted(places)
    # Nothing overlaps: a row's widgets fill its width and no more.
    rows: dict[int, int] = {}
    for widget in body["widgets"]:
        rows[widget["y"]] = rows.get(widget["y"], 0) + widget["width"]
    assert all(width <= 24 for width in rows.values())


def test_dashboards_of_two_regions_do_not_replace_each_other(existing: Assembly) -> None:
    name = existing["proxy"].text(existing["proxy"].one("AWS::CloudWatch::Dashboard")["DashboardName"])
    assert name == "tidegate-shop-eu-west-1"


def test_a_task_that_is_replaced_again_and_again_is_missed_without_a_load_balancer_too(
    default: Assembly, small: Assembly
) -> None:
    found = alarms(default["proxy"])["missing-tasks"]
    assert (found["DatapointsToAlarm"], found["EvaluationPeriods"]) == (5, 5)
    (alarm,) = [one for name, one in alarms(small["proxy"]).items() if name.endswith("missing-tasks")]
    # It counts as running between two replacements.
    assert (alarm["DatapointsToAlarm"], alarm["EvaluationPeriods"]) == (3, 10)
