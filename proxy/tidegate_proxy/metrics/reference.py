"""docs/metrics.md, made from the list of metrics: `python -m tidegate_proxy.metrics.reference`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

from tidegate_proxy.metrics.registry import ENDPOINT, METRICS, PROXY, REASON, RESULT, ROLE, TARGET, Dimensions, Metric

_INTRODUCTION = """\
# Metrics of the proxy

<!-- Generated: python -m tidegate_proxy.metrics.reference > docs/metrics.md -->

The same facts in two forms. Settings are in [configuration.md](configuration.md), under "Console, metrics and logs".

## CloudWatch

With `cloudwatch_metrics = true` (`TIDEGATE_CLOUDWATCH_METRICS=true`) the proxy writes lines in CloudWatch's Embedded
Metric Format on standard output, every `cloudwatch_period` seconds and once more when it stops. Logs go to standard
error. Where standard output goes to CloudWatch Logs, as ECS's `awslogs` driver does it, CloudWatch makes metrics of
them, in namespace `Tidegate` unless `cloudwatch_namespace` says otherwise.

Names, units and dimensions of the first table are those of RDS Proxy, whose dashboards and alarms therefore need only
another namespace. As with RDS Proxy, each process is a source of its own, each of several `workers` too: CloudWatch
puts together what they write, so look at the statistic that the table names, over all of them. `TargetGroup` is always
`default`, `EndpointName` is the setting `endpoint_name`, `Target` is `host:port` of the server: server connections
count where they lead to; everything else for the server that the database used then, its writer, or the first of its
readers where there are several.

Latencies are in microseconds and single values, so CloudWatch computes real percentiles of them: every value up to
1,000 in a period, or 1,000 at equal steps through the sorted ones, the least and the greatest among them. Each is
within 4 % of what was measured.

## Prometheus

With `http_port` set, `/metrics` tells the same with Prometheus's names and labels, times in seconds, latencies as
histograms; and the usual `process_...` and `python_gc_...` metrics. `proxy/grafana/tidegate.json` is a dashboard for
Grafana. With several `workers`, any of them answers for all at that one port: each sample has the label `worker`, 0 for
the first, so sum over it. One that does not answer is missing. Rules for alerts to begin with:

```
# transactions that got no server connection in time
increase(tidegate_borrow_timeouts_total[5m]) > 0
# one of a hundred transactions waits for longer than a second
histogram_quantile(0.99, sum by (le) (rate(tidegate_database_connections_borrow_latency_seconds_bucket[5m]))) > 1
# the proxy's certificate expires within two weeks
tidegate_certificate_days_left < 14
# server connections cannot be opened
rate(tidegate_database_connections_setup_failed_total[5m]) > 0.1
```

## Alive and ready

The same server answers `/healthz`, 200 while the process is alive, and `/readyz`, which says whether clients should be
sent here. Of several `workers`, the kernel chooses who answers, as it does for clients, and each answers for itself.

| when | status | text |
|---|---|---|
| no login to a target has worked yet | 503 | `no login to a target is possible`, `no target answers` |
| one has | 200 | `ok` |
| one has, and now no target is available | 200 | `ok, but no target is available at present: clients wait` |
| the proxy drains | 503 | `draining` |

A database that goes away leaves a proxy ready that was ready before: it is away for every proxy, and to restart them or
to take them out of a load balancer would help nobody and would disconnect all clients that wait for it to come back.
That is what `AvailabilityPercentage` tells. A proxy which alone has lost its way to the database stays ready, too.

The login is made as a user whose password, secret or token the proxy has itself: `user` or `secret` of a database,
`users`, with `server_auth = "iam"` also those of `iam.rules`, and `auth_user`. Where databases are known only by the
names that clients give (`"*"`), it goes to the database `postgres`, and it is enough that the server accepts the user.
Where every client brings its own password or token, there is nothing to log in with: then `/readyz` says only that
something accepts connections at the server's address.
"""

_SETS: dict[Dimensions, str] = {
    PROXY: "P",
    ENDPOINT: "E",
    TARGET: "T",
    ROLE: "R",
    REASON: "reason",
    RESULT: "result",
}


def _rows(metrics: Iterable[Metric]) -> Iterator[str]:
    yield "| CloudWatch | unit | statistic | dimensions | Prometheus | labels | meaning |"
    yield "|---|---|---|---|---|---|---|"
    for metric in metrics:
        dimensions = ", ".join(_SETS[dimensions] for dimensions in metric.dimensions)
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        yield (
            f"| `{metric.name}` | {metric.unit} | {metric.statistic} | {dimensions} | `{metric.prometheus}` |"
            f" {labels} | {metric.meaning} |"
        )


def reference() -> str:
    """The whole page, in Markdown."""
    lines = [_INTRODUCTION.rstrip(), "", "## RDS Proxy's metrics", "", "Dimension sets:", ""]
    lines += [f"- {short}: " + ", ".join(f"`{name}`" for name in names) for names, short in _SETS.items()]
    lines += ["", *_rows(metric for metric in METRICS if metric.of_rds)]
    lines += ["", "## Tidegate's own", "", *_rows(metric for metric in METRICS if not metric.of_rds)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(reference())
