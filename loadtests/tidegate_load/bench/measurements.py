"""What a run has measured, as plain data that goes to JSON and back."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from tidegate_load.bench.stats import Spread, paired_ratios, spread

FORMAT = 1
"""Number of the JSON's layout."""

REFERENCE = "pgbouncer"
"""Key of the endpoint that ratios refer to."""


class RunFileError(ValueError):
    """A file is not a run of the benchmark; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One measured quantity. `better` is "lower" or "higher"; `ratio`, whether its ratios mean anything."""

    key: str
    title: str
    unit: str
    digits: int = 1
    better: str = "lower"
    ratio: bool = True


@dataclass(frozen=True, slots=True)
class Measurement:
    """One round of one endpoint in one case: values by key of the metric."""

    scenario: str
    case: str
    endpoint: str
    round: int
    values: dict[str, float]


@dataclass(frozen=True, slots=True)
class Failure:
    """A round that could not be measured, and why."""

    scenario: str
    case: str
    endpoint: str
    round: int
    error: str


@dataclass(frozen=True, slots=True)
class EndpointInfo:
    """An endpoint of the run: `version`, or None and in `remark` why it is absent."""

    key: str
    title: str
    version: str | None
    remark: str = ""


@dataclass
class Run:
    """All of one run."""

    date: str
    command: str
    machine: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    endpoints: list[EndpointInfo] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    seconds: float = 0.0
    complete: bool = False

    # -- questions ---------------------------------------------------------------------------------------------------

    def scenarios(self) -> list[str]:
        """Keys of the scenarios with measurements, in the order in which they ran."""
        return _unique(each.scenario for each in self.measurements)

    def cases(self, scenario: str) -> list[str]:
        """Names of a scenario's cases, in the order in which they ran."""
        return _unique(each.case for each in self.measurements if each.scenario == scenario)

    def endpoint_keys(self, scenario: str, case: str | None = None) -> list[str]:
        """Keys of the endpoints that were measured in a scenario, or in one case of it, in the order of `endpoints`."""
        seen = {each.endpoint for each in self.measurements if each.scenario == scenario and case in (None, each.case)}
        return [info.key for info in self.endpoints if info.key in seen]

    def title(self, endpoint: str) -> str:
        """An endpoint's title."""
        return next((info.title for info in self.endpoints if info.key == endpoint), endpoint)

    def rounds(self, scenario: str, case: str, endpoint: str, metric: str) -> dict[int, float]:
        """Values by number of the round."""
        return {
            each.round: each.values[metric]
            for each in self.measurements
            if (each.scenario, each.case, each.endpoint) == (scenario, case, endpoint) and metric in each.values
        }

    def spread(self, scenario: str, case: str, endpoint: str, metric: str) -> Spread | None:
        """Median and quartiles over the rounds, None if nothing was measured."""
        values = list(self.rounds(scenario, case, endpoint, metric).values())
        return spread(values) if values else None

    def ratio(self, scenario: str, case: str, endpoint: str, metric: str, to: str = REFERENCE) -> Spread | None:
        """Spread of the ratios to another endpoint in the same rounds, None if there is no such pair."""
        ours, theirs = (self.rounds(scenario, case, key, metric) for key in (endpoint, to))
        ratios = paired_ratios(ours, theirs)
        return spread(ratios) if ratios else None

    # -- file --------------------------------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        """Write the JSON file; its folder is created. Raises: OSError."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"format": FORMAT} | asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote. Raises: RunFileError; OSError."""
        try:
            data = json.loads(path.read_text())
            if data.pop("format") != FORMAT:
                raise RunFileError(f"{path}: written by another version of the benchmark; run it again")
            parts: dict[str, type] = {"endpoints": EndpointInfo, "measurements": Measurement, "failures": Failure}
            for name, kind in parts.items():
                data[name] = [kind(**each) for each in data[name]]
            return cls(**data)
        except (KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise RunFileError(f"{path}: not a run of the benchmark ({error})") from None


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
