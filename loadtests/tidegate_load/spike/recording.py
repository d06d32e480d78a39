"""The raw data of one run: invocations, the database's connections over time, accounting."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from tidegate_load.spike.outcomes import OK

FORMAT = 1
"""Version of the JSON's layout."""

RESULT_COLUMNS = ("time", "latency_ms", "outcome", "cold_start", "committed", "id")
"""Columns of the CSV file that the Locust file writes, one line per finished invocation."""


class RecordingError(Exception):
    """A file of raw data is missing, damaged or of another format; the message names it and what to do."""


class Invocation(NamedTuple):
    """One finished invocation, as its caller saw it."""

    time: float
    """Unix time at which it was sent, seconds."""
    latency_ms: float
    outcome: str
    cold_start: bool
    committed: bool
    """Whether the function said that its transaction committed."""
    id: int
    """The counter that it was asked to raise."""

    @property
    def end(self) -> float:
        """Unix time at which the answer was complete, seconds."""
        return self.time + self.latency_ms / 1000


class ConnectionSample(NamedTuple):
    """Open client connections of the database at one moment."""

    time: float
    """Unix time, seconds."""
    total: int
    by_owner: dict[str, int]
    """Count by "role/application"."""


class ServiceSample(NamedTuple):
    """The local Lambda service at one moment."""

    time: float
    """Unix time, seconds."""
    environments: int
    busy: int


@dataclass(frozen=True)
class Accounting:
    """What the table holds against what the functions said; counted row by row once everything has ended."""

    stored: int
    """Sum over the table."""
    said: int
    """Invocations that said they committed."""
    lost: int
    """Said to be committed, but not in the table."""
    extra: int
    """In the table, though no invocation said so: doubled, or committed by an invocation that then failed."""

    @classmethod
    def compare(cls, stored: Mapping[int, int], invocations: Iterable[Invocation]) -> Accounting:
        """Compare the table with what was said, row by row, so that one lost and one doubled do not cancel out.

        Parameters: `stored`, the value of each row by its id; `invocations`, all that were made.
        """
        said = Counter(each.id for each in invocations if each.committed)
        rows = stored.keys() | said.keys()
        differences = [stored.get(row, 0) - said[row] for row in rows]
        return cls(
            stored=sum(stored.values()),
            said=said.total(),
            lost=-sum(difference for difference in differences if difference < 0),
            extra=sum(difference for difference in differences if difference > 0),
        )


@dataclass
class Recording:
    """One run of the spike.

    `parameters` holds what was asked for (peak, seconds, sizes); `service` the local Lambda service's counters at
    the end; `cpu_seconds` the processor time of each process that took part. What was not measured is empty or None.
    """

    name: str
    title: str
    parameters: dict[str, Any]
    invocations: list[Invocation] = field(default_factory=list)
    connections: list[ConnectionSample] = field(default_factory=list)
    environments: list[ServiceSample] = field(default_factory=list)
    max_connections: int | None = None
    function_role: str | None = None
    """The database role whose server connections are held against the pool's size."""
    service: dict[str, int] = field(default_factory=dict)
    cpu_seconds: dict[str, float] = field(default_factory=dict)
    accounting: Accounting | None = None

    @property
    def start(self) -> float:
        """Unix time of the first invocation, seconds; 0 if there was none."""
        return min((each.time for each in self.invocations), default=0.0)

    @property
    def failed(self) -> int:
        """Invocations that did not succeed."""
        return sum(each.outcome != OK for each in self.invocations)

    @property
    def errors(self) -> dict[str, int]:
        """Failed invocations by kind, most frequent first."""
        return dict(Counter(each.outcome for each in self.invocations if each.outcome != OK).most_common())

    @property
    def cold_starts(self) -> int:
        """Invocations for which an environment was started."""
        return sum(each.cold_start for each in self.invocations)

    @property
    def peak_connections(self) -> int:
        """Most client connections that the database had at once, everyone's counted."""
        return max((sample.total for sample in self.connections), default=0)

    def peak_connections_of(self, role: str) -> int:
        """Most connections that one database role had at once."""
        return max(
            (
                sum(count for owner, count in sample.by_owner.items() if _serves_functions(owner, role))
                for sample in self.connections
            ),
            default=0,
        )

    def save(self, path: Path) -> None:
        """Write as JSON."""
        data = {"format": FORMAT} | {
            key: value for key, value in vars(self).items() if key not in ("accounting", "invocations")
        }
        data["accounting"] = asdict(self.accounting) if self.accounting else None
        data["invocation_columns"] = Invocation._fields
        data["invocations"] = [(round(each.time, 6), round(each.latency_ms, 3), *each[2:]) for each in self.invocations]
        path.write_text(json.dumps(data, separators=(",", ":")) + "\n")

    @classmethod
    def load(cls, path: Path) -> Recording:
        """Read what `save` wrote. Raises: RecordingError."""
        try:
            data = json.loads(path.read_text())
            if data.pop("format") != FORMAT:
                raise ValueError("written by another version")
            data.pop("invocation_columns")
            data["invocations"] = [Invocation(*row) for row in data["invocations"]]
            data["connections"] = [ConnectionSample(*row) for row in data["connections"]]
            data["environments"] = [ServiceSample(*row) for row in data["environments"]]
            data["accounting"] = Accounting(**data["accounting"]) if data["accounting"] else None
            return cls(**data)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise RecordingError(
                f"{path}: not the raw data of a run ({error}); make it anew with `tidegate-spike demo` or `run`"
            ) from error


class ResultReader:
    """Reads the Locust file's CSV while it is being written; each `read` returns what came since the last one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: TextIO | None = None
        self._partial = ""

    def read(self) -> list[Invocation]:
        """Invocations that finished since the last call; none while the file does not exist.

        Raises: RecordingError if a line is not one of ours.
        """
        if self._file is None:
            try:
                self._file = self._path.open(newline="")
            except FileNotFoundError:
                return []
        text = self._partial + self._file.read()
        *lines, self._partial = text.split("\n")
        found = []
        for row in csv.reader(line.rstrip("\r") for line in lines):
            if tuple(row) == RESULT_COLUMNS:
                continue
            try:
                sent, latency, outcome, cold, committed, row_id = row
                found.append(
                    Invocation(float(sent), float(latency), outcome, cold == "1", committed == "1", int(row_id))
                )
            except ValueError as error:
                raise RecordingError(f"{self._path}: unexpected line {','.join(row)[:80]!r}") from error
        return found

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def _serves_functions(owner: str, role: str) -> bool:
    """Whether a connection of `owner`, "role/application_name", carries what functions ask. The proxy has another one
    of the same role, on which it watches the server."""
    user, _, application = owner.partition("/")
    return user == role and not application.startswith("tidegate ")
