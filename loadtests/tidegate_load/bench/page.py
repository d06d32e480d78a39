"""docs/performance.md, generated from a run: whoever reads a number finds what it means and how it was made."""

from __future__ import annotations

from pathlib import Path

from tidegate_load.bench.endpoints.pgbouncer import LISTEN_BACKLOG
from tidegate_load.bench.measurements import REFERENCE, Run
from tidegate_load.bench.plot import draw
from tidegate_load.bench.scenarios import Scenario, all_scenarios
from tidegate_load.bench.table import shown, shown_ratio, used_metrics
from tidegate_load.bench.targets import verdicts

_MARKS = {True: "met", False: "**not met**", None: "-"}


def write_page(run: Run, path: Path, notes: str = "") -> None:
    """Write the page, and its pictures to a folder of the same name beside it.

    Parameters: `notes`, markdown that is included as it is. Raises: OSError.
    """
    pictures = path.with_suffix("")
    path.parent.mkdir(parents=True, exist_ok=True)
    known = {scenario.key: scenario for scenario in all_scenarios()}
    parts = [_head(run), _machine(run), _method(run), _targets(run)]
    for key in run.scenarios():
        picture = draw(run, known[key], pictures)
        parts.append(_scenario(run, known[key], f"{pictures.name}/{picture.name}"))
    if notes.strip():
        parts.append(notes.strip())
    parts.append(_absent(run))
    path.write_text("\n\n".join(part for part in parts if part) + "\n")


def _head(run: Run) -> str:
    text = f"""\
# Performance

<!-- Generated: tidegate-bench page RUN.json. What is written by hand is in performance_notes.md. -->

All endpoints were measured in one run, in turn, in short rounds, since machines are noisy: compare numbers within a
table, not across runs. Ratios are to PgBouncer in the same round; what is shown is the median of the rounds, with
quartiles.

- Command: `{run.command}`
- Date: {run.date[:10]}; it took {run.seconds / 60:.0f} minutes"""
    if not run.complete:
        text += "\n- **The run was stopped before its end**: what is missing was not measured"
    if "--quick" in run.command:
        text += "\n- **Small sizes (`--quick`)**: a first impression, not a result"
    return text


def _machine(run: Run) -> str:
    lines = ["## Machine and versions", "", "| what | which |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in run.machine.items()]
    lines += [f"| {info.title} | {info.version} |" for info in run.endpoints if info.version]
    return "\n".join(lines)


def _method(run: Run) -> str:
    rounds, size = run.options.get("rounds", "?"), run.options.get("pool_size", "?")
    return f"""\
## How it is measured

- One process of each pooler, {size} server connections, transaction mode, no TLS towards PostgreSQL, {rounds} rounds.
  Client, pooler and PostgreSQL share the machine's cores, so throughput and latency depend on all three; the pooler's
  CPU time does not.
- CPU is user and system time of the pooler's process and its children, by the kernel's clock, in a window of steady
  load. How it divides into kernel and user is counted in ticks and is rough.
- PgBouncer has `listen_backlog = {LISTEN_BACKLOG}` (its default of 128 costs a storm a second in retransmitted SYNs),
  the user's SCRAM verifier, so that it derives no key at a login, and no logging of connections. Tidegate logs warnings
  only.
- Poolers that `make poolers` fetched run with their Debian suite's own C library and OpenSSL, not the machine's.
- The client is pgbench; storms and idle clients are one asyncio process, bulk is a blocking socket.
- PostgreSQL's wheel has no TLS, so PostgreSQL itself is missing where clients use TLS, and pgbench then uses psycopg's
  libpq.
- Memory of an idle client is growth of the pooler's proportional set size (PSS), divided by the clients."""


def _targets(run: Run) -> str:
    lines = ["## Targets", "", "| what | target | seen | |", "|---|---|---|---|"]
    lines += [f"| {each.what} | {each.target} | {each.seen} | {_MARKS[each.met]} |" for each in verdicts(run)]
    return "\n".join(lines)


def _scenario(run: Run, scenario: Scenario, picture: str) -> str:
    metrics = used_metrics(run, scenario)
    compared = REFERENCE in run.endpoint_keys(scenario.key)
    heads = [f"{metric.title} ({metric.unit})" if metric.unit else metric.title for metric in metrics]
    lines = [f"## {scenario.title}", "", f"![{scenario.title}]({picture})", ""]
    lines += [f"| case | endpoint | {' | '.join(heads)} |", "|---|---|" + "---:|" * len(metrics)]
    for case in run.cases(scenario.key):
        for endpoint in run.endpoint_keys(scenario.key, case):
            cells = []
            for metric in metrics:
                median, quartiles = shown(metric, run.spread(scenario.key, case, endpoint, metric.key))
                ratio = ""
                if compared and metric.ratio and endpoint != REFERENCE:
                    ratio = shown_ratio(run.ratio(scenario.key, case, endpoint, metric.key))
                details = "; ".join(part for part in (quartiles, f"ratio {ratio}" if ratio else "") if part)
                cells.append(f"{median} ({details})" if details else median)
            lines.append(f"| {case} | {run.title(endpoint)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _absent(run: Run) -> str:
    lines = [f"- {info.title}: {info.remark}." for info in run.endpoints if info.version is None]
    lines += [f"- {remark}." for remark in run.remarks]
    lines += [
        f"- {each.scenario}, {each.case}, {run.title(each.endpoint)} failed: {each.error}" for each in run.failures
    ]
    return "\n".join(["## What is not in these numbers", "", *(lines or ["- Nothing that was to be measured."])])
