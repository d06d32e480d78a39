"""What a month costs, beside RDS Proxy: `python -m tidegate_infra.cost` writes docs/cost.md from the prices below.

The prices are AWS's list prices in us-east-1 in US dollars, without any discount, as its pricing pages had them when
this was written; check them, put in those of your region, and run it again.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "cost.md"
HOURS = 730
"""Of a month."""

FARGATE_VCPU = {"arm64": 0.03238, "x86_64": 0.04048}
"""Per vCPU and hour (AWS Fargate pricing, Linux)."""
FARGATE_GIB = {"arm64": 0.00356, "x86_64": 0.004445}
"""Per GiB and hour."""
NLB_HOUR, NLCU_HOUR = 0.0225, 0.006
"""Per load balancer, and per capacity unit: 100,000 open connections, 800 new ones a second, or 1 GB an hour."""
METRIC, ALARM, ALARM_METRIC, DASHBOARD = 0.30, 0.10, 0.10, 3.0
"""Per month: a custom metric (each set of dimensions is one), an alarm, each metric of an alarm on an expression beyond
the first, a dashboard."""
NAT_HOUR, ENDPOINT_HOUR, ENDPOINTS = 0.045, 0.01, 6
"""Per hour, without traffic: a NAT gateway, and an interface endpoint in one zone; how many endpoints the app
makes for a VPC without a way out."""
LOG_GIB, KMS_KEY, ZONE, SECRET = 0.50, 1.0, 0.50, 0.40
"""Per GiB of logs taken in; per key, per hosted zone and per secret, a month."""
SECRETS = 2
"""Those that RDS Proxy needs none for: the certificate, and what unknown users' salts are made from."""
RDS_PROXY_VCPU, RDS_PROXY_LEAST_VCPU = 0.015, 2
"""Per vCPU of the database and hour; two are charged at least."""
RDS_PROXY_ACU, RDS_PROXY_LEAST_ACU = 0.015, 8
"""Per ACU of an Aurora Serverless v2 and hour; eight are charged at least."""

SERIES = 86
"""Custom metrics of one proxy with one target: its metrics, each times its sets of dimensions (without
those by reason or result, which depend on what happens)."""
INSIGHTS = 37
"""Series of Container Insights for one cluster with one service on Fargate, charged as custom metrics: an estimate, by
the list "Amazon ECS Container Insights metrics" in the CloudWatch user guide, which grows."""
ALARMS, ALARM_METRICS, KEYS = 13, 16, 2
"""What the default stack has; one key is the log group's, one the alarm topic's."""


@dataclass(frozen=True)
class Fleet:
    """A way to run Tidegate. Fields: `vcpu` and `gib` of each of `tasks`; `logs`, GiB a month."""

    name: str
    tasks: int
    vcpu: float
    gib: float
    load_balancer: bool
    logs: float = 1.0
    watched: bool = True

    def parts(self) -> dict[str, float]:
        """Dollars a month, by what they are for."""
        fargate = self.tasks * HOURS * (self.vcpu * FARGATE_VCPU["arm64"] + self.gib * FARGATE_GIB["arm64"])
        found = {"Fargate": fargate}
        # Either way its name takes a zone.
        found["endpoint"] = ZONE + (HOURS * (NLB_HOUR + NLCU_HOUR) if self.load_balancer else 0)
        # Their key comes with the construct, and Container Insights with its cluster, watched or not.
        found["secrets"] = SECRETS * SECRET
        found["logs"] = self.logs * LOG_GIB + KMS_KEY
        found["metrics"] = INSIGHTS * METRIC
        if self.watched:
            alarms = ALARM * ALARMS + ALARM_METRIC * (ALARM_METRICS - ALARMS)
            found["metrics"] += SERIES * METRIC
            found["alarms, dashboard"] = alarms + DASHBOARD + (KEYS - 1) * KMS_KEY
        return found

    def month(self) -> float:
        """Dollars a month."""
        return sum(self.parts().values())


FLEETS = (
    Fleet("smallest: 2 tasks of ¼ vCPU, DNS, not watched", 2, 0.25, 0.5, load_balancer=False, watched=False),
    Fleet("small: 2 tasks of ¼ vCPU, DNS", 2, 0.25, 0.5, load_balancer=False),
    Fleet("default: 2 tasks of 1 vCPU, load balancer", 2, 1, 2, load_balancer=True),
    Fleet("large: 4 tasks of 1 vCPU, load balancer", 4, 1, 2, load_balancer=True, logs=5),
)

DATABASES = {
    "db.t4g.micro, db.t4g.medium (2 vCPU)": ("vCPU", 2.0),
    "db.r6g.large (2 vCPU)": ("vCPU", 2.0),
    "db.r6g.xlarge (4 vCPU)": ("vCPU", 4.0),
    "db.r6g.2xlarge (8 vCPU)": ("vCPU", 8.0),
    "db.r6g.4xlarge (16 vCPU)": ("vCPU", 16.0),
    "db.r6g.8xlarge (32 vCPU)": ("vCPU", 32.0),
    "Aurora Serverless v2, 1 ACU on average": ("ACU", 1.0),
    "Aurora Serverless v2, 16 ACU on average": ("ACU", 16.0),
    "Aurora Serverless v2, 64 ACU on average": ("ACU", 64.0),
}


def rds_proxy(unit: str, size: float) -> float:
    """Dollars a month of an RDS Proxy. Parameters: `unit`, vCPU or ACU; `size`, of all instances behind it."""
    if unit == "ACU":
        return HOURS * RDS_PROXY_ACU * max(size, RDS_PROXY_LEAST_ACU)
    return HOURS * RDS_PROXY_VCPU * max(size, RDS_PROXY_LEAST_VCPU)


def even(fleet: Fleet) -> float:
    """vCPUs of a provisioned database from which on RDS Proxy costs more than `fleet`."""
    return fleet.month() / (HOURS * RDS_PROXY_VCPU)


def page() -> str:
    """docs/cost.md."""
    nat, endpoints = HOURS * NAT_HOUR, HOURS * ENDPOINT_HOUR * ENDPOINTS * 2
    lines = [INTRODUCTION.format(nat=nat, endpoints=endpoints, names=ENDPOINTS)]
    lines += ["| Tidegate | Fargate | endpoint | secrets | logs | metrics | alarms, dashboard | a month |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for fleet in FLEETS:
        parts = fleet.parts()
        names = ("Fargate", "endpoint", "secrets", "logs", "metrics", "alarms, dashboard")
        cells = [f"{parts[name]:.2f}" if name in parts else "–" for name in names]  # noqa: RUF001
        lines.append(f"| {fleet.name} | {' | '.join(cells)} | **{fleet.month():.2f}** |")
    lines += ["", "| database | RDS Proxy, a month | cheaper |", "|---|---|---|"]
    for name, (unit, size) in DATABASES.items():
        price = rds_proxy(unit, size)
        below = [fleet.name.partition(":")[0] for fleet in FLEETS if fleet.watched and fleet.month() < price]
        cheaper = f"Tidegate: {', '.join(below)}" if below else "RDS Proxy"
        lines.append(f"| {name} | {price:.2f} | {cheaper} |")
    smallest, small, default, _ = FLEETS
    figures = {"small": even(small), "default": even(default), "metrics": SERIES * METRIC}
    figures |= {"smallest": smallest.month(), "insights": INSIGHTS * METRIC}
    lines.append(CONCLUSION.format(vcpu=RDS_PROXY_VCPU, series=SERIES, **figures))
    return "\n".join(lines)


INTRODUCTION = """# What it costs

Made by `python -m tidegate_infra.cost` from the list prices at its top (us-east-1, US dollars, no
discounts, 730 hours). Prices change, and differ by region: check them, put in yours and run it again.
Not counted, because both have it: the database, traffic between zones, the secrets of database users.

**Not counted, because most VPCs have it: the way out.** RDS Proxy needs neither a NAT gateway nor interface endpoints;
Tidegate's tasks need one or the other, for their image, logs and secrets. If your VPC has neither, add about
{nat:.0f} a month for one NAT gateway, or about {endpoints:.0f} for {names} interface endpoints in two zones.
"""

CONCLUSION = """
**RDS Proxy is cheaper for small databases.** It is charged by the database's size ({vcpu} per vCPU and hour, for at
least two vCPUs or eight ACUs), its metrics are free, and nobody has to operate it. With metrics and alarms, the
small Tidegate pays from {small:.0f} vCPUs on, and the default one from {default:.0f}. The smallest
costs {smallest:.2f}, but nobody watches it, so it is not among the cheaper ones above. If RDS Proxy does what you need,
and the database is small, take RDS Proxy.

**Tidegate is cheaper for large databases, for readers, and for Serverless v2 that is larger than it is busy.** Its
price follows the queries that pass through it, not the size of what is behind: an Aurora cluster of three
db.r6g.2xlarge has 24 vCPUs for RDS Proxy, and is still two tasks for Tidegate.

**Metrics are what to save on.** {series} custom metrics are {metrics:.2f} a month, whatever the load. Whoever has
Prometheus can do without (`settings={{"cloudwatch_metrics": False}}`, and `/metrics` on port 8080), but then has
neither these alarms nor scaling by clients. Container Insights, which the alarm on missing tasks needs, is about
{insights:.2f} of each row: the cluster that the construct makes has it; one of yours (`cluster`) may do without, if
nobody needs that alarm.

Fargate Spot takes about two thirds off tasks beyond the least number; a Savings Plan up to half off all of them.
"""


def main() -> int:
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
