"""The page on cost is what its script computes."""

from __future__ import annotations

from tidegate_infra import cost
from tidegate_infra.app.network import SERVICES
from tidegate_proxy.metrics.registry import METRICS


def test_the_page_is_what_the_script_writes() -> None:
    assert cost.PAGE.read_text(encoding="utf-8") == cost.page(), "python -m tidegate_infra.cost"


def test_rds_proxy_has_a_least_price() -> None:
    assert cost.rds_proxy("vCPU", 1) == cost.rds_proxy("vCPU", 2) == 730 * 0.03
    assert cost.rds_proxy("ACU", 0.5) == cost.rds_proxy("ACU", 8) == 730 * 0.12


def test_the_page_says_where_rds_proxy_is_cheaper_and_where_it_is_not() -> None:
    page = cost.page()
    assert "| db.t4g.micro, db.t4g.medium (2 vCPU) | 21.90 |" in page
    small = [line for line in page.splitlines() if line.startswith(("| db.t4g", "| db.r6g.large", "| db.r6g.xlarge"))]
    assert len(small) == 3
    assert all(line.endswith("| RDS Proxy |") for line in small)
    assert "db.r6g.8xlarge (32 vCPU) | 350.40 | Tidegate: small, default, large" in page


def test_a_fleet_that_nobody_watches_is_never_called_cheaper_but_pays_for_what_it_cannot_leave_out() -> None:
    compared = [line for line in cost.page().splitlines() if line.startswith(("| db", "| Aurora"))]
    assert len(compared) == len(cost.DATABASES)
    assert not any("smallest" in line for line in compared)
    for fleet in cost.FLEETS:
        parts = fleet.parts()
        assert parts["logs"] >= cost.KMS_KEY
        assert parts["metrics"] >= cost.INSIGHTS * cost.METRIC


def test_custom_metrics_are_counted_from_the_proxys_own_list() -> None:
    series = [sets for metric in METRICS for sets in metric.dimensions]
    found = sum(not {"Reason", "Result"} & set(sets) for sets in series)
    # A metric more or less is some cents a month.
    assert abs(found - cost.SERIES) <= cost.SERIES // 10, f"{found}: change SERIES in cost.py"


def test_the_counts_are_those_of_the_default_stack(default: object) -> None:
    from tests.infra.template import Assembly

    assert isinstance(default, Assembly)
    proxy = default["proxy"]
    alarms = proxy.of_type("AWS::CloudWatch::Alarm").values()
    watched = sum(
        sum("MetricStat" in query for query in alarm["Metrics"]) if "Metrics" in alarm else 1 for alarm in alarms
    )
    assert (len(alarms), watched) == (cost.ALARMS, cost.ALARM_METRICS)
    assert len(proxy.of_type("AWS::KMS::Key")) == cost.KEYS


def test_the_introduction_is_text_and_names_what_only_tidegate_needs() -> None:
    lines = cost.page().splitlines()
    assert not [line for line in lines if line.startswith("    ")]
    assert "add about 33 a month for one NAT gateway, or about 88 for 6 interface endpoints" in " ".join(lines)
    assert len(SERVICES) == cost.ENDPOINTS
