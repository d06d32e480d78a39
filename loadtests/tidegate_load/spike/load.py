"""Runs the Locust file as a process of its own: gevent's patches and our threads do not mix."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tidegate_load.clean_environment import clean_environment
from tidegate_load.spike.processes import Child, StepError

LOCUSTFILE = Path(__file__).resolve().parents[2] / "locustfile.py"


@dataclass(frozen=True)
class LoadSize:
    """How much load: the options of the Locust file, seconds and counts."""

    peak: int = 500
    ramp: float = 3.0
    hold: float = 10.0
    fall: float = 3.0
    min_invocations: int = 5000
    max_duration: float = 40.0
    read_timeout: float = 60.0

    def as_dict(self) -> dict[str, Any]:
        """For a run's parameters."""
        return asdict(self)

    def arguments(self) -> list[str]:
        """As options of the Locust file."""
        return [part for key, value in asdict(self).items() for part in (f"--{key.replace('_', '-')}", str(value))]


@dataclass(frozen=True)
class LoadTarget:
    """Which function, and where it runs."""

    function: str
    target: str = "local"
    endpoint_url: str | None = None
    region: str | None = None

    def arguments(self) -> list[str]:
        """As options of the Locust file."""
        chosen = {
            "--function": self.function,
            "--target": self.target,
            "--endpoint-url": self.endpoint_url,
            "--region": self.region,
        }
        return [part for key, value in chosen.items() if value is not None for part in (key, value)]


def start_locust(target: LoadTarget, size: LoadSize, *, results: Path, html: Path, log: Path) -> Child:
    """Start a headless Locust that writes `results` (CSV) while it runs, and at its end `html`, its own report.

    Its exit status is 0 whatever became of the invocations: judging them is not its task.
    Raises: StepError if the Locust file is not there.
    """
    if not LOCUSTFILE.exists():
        raise StepError(f"{LOCUSTFILE} is missing; run the spike from a checkout of the project")
    results.parent.mkdir(parents=True, exist_ok=True)
    results.unlink(missing_ok=True)
    arguments: list[str | Path] = [
        *(sys.executable, "-m", "locust", "--locustfile", LOCUSTFILE, "--headless", "--only-summary"),
        *("--exit-code-on-error", "0", "--html", html, "--results", results),
        *target.arguments(),
        *size.arguments(),
    ]
    # It is only ever stopped to throw its run away, so there is nothing to wait for.
    environment = clean_environment(for_aws=target.target == "aws")
    return Child("Locust", arguments, log, grace=0, environment=environment)
