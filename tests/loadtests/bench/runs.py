"""Runs made of fixed numbers."""

from __future__ import annotations

from tidegate_load.bench.measurements import EndpointInfo, Measurement, Run

SIMPLE = "plain, simple, 64 clients"


def made_run() -> Run:
    """Three rounds of short queries, the machine twice as slow in the second, and one storm after a kill."""
    run = Run(
        "2026-01-02T03:04:05+00:00",
        "tidegate-bench run",
        machine={"CPU": "Imaginary 9000", "cores": "2"},
        options={"rounds": 3, "pool_size": 20},
        endpoints=[
            EndpointInfo("direct", "PostgreSQL", "18.4"),
            EndpointInfo("pgbouncer", "PgBouncer", "PgBouncer 1.26.0"),
            EndpointInfo("tidegate-compiled", "Tidegate compiled", "0.1.0 compiled"),
            EndpointInfo("tidegate-interpreted", "Tidegate interpreted", "0.1.0 interpreted"),
            EndpointInfo("odyssey", "Odyssey", None, "no program odyssey on PATH"),
        ],
        seconds=180.0,
        complete=True,
    )
    for number, slowness in ((1, 1.0), (2, 2.0), (3, 1.0)):
        for endpoint, cpu, throughput, p99 in (
            ("direct", None, 30_000.0, 1.0),
            ("pgbouncer", 16.0, 20_000.0, 1.5),
            ("tidegate-compiled", 16.8, 18_000.0, 1.4),
            ("tidegate-interpreted", 44.0, 9_000.0, 3.0),
        ):
            values = {"throughput": throughput / slowness, "p99": p99 * slowness}
            if cpu is not None:
                values["cpu"] = cpu * slowness
            run.measurements.append(Measurement("a", SIMPLE, endpoint, number, values))
    for endpoint, failures in (("pgbouncer", 0.0), ("tidegate-compiled", 2.0)):
        values = {"last": 100.0, "p99": 90.0, "cpu": 0.1, "servers": 20.0, "failures": failures}
        run.measurements.append(Measurement("b", "servers killed, 500 new clients", endpoint, 1, values))
    return run
