"""`report.html` and `report.png`: the runs side by side, from their raw data alone."""

from __future__ import annotations

import base64
import errno
import os
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from tidegate_load.spike.figure import draw
from tidegate_load.spike.page import PAGE
from tidegate_load.spike.processes import StepError
from tidegate_load.spike.promises import DIRECT, LAYER, PROXY, Promise
from tidegate_load.spike.recording import Recording, RecordingError
from tidegate_load.spike.summary import summary_rows

ORDER = (DIRECT, LAYER, PROXY)
RAW = "raw"
"""Folder of the raw data below the report's."""


def raw_file(folder: Path, name: str) -> Path:
    """Where the raw data of the run `name` lies."""
    return folder / RAW / f"{name}.json"


def locust_report(folder: Path, name: str) -> Path:
    """Where Locust's own report of the run `name` lies."""
    return folder / f"locust-{name}.html"


def make_folder(folder: Path) -> None:
    """Make the folders of a report and of its raw data. Raises: StepError."""
    try:
        (folder / RAW).mkdir(parents=True, exist_ok=True)
        if not os.access(folder / RAW, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise StepError(
            f"--output {folder}: nothing can be written there ({error.strerror}); name another folder"
        ) from None


def load_recordings(folder: Path) -> list[Recording]:
    """All runs whose raw data lies in a report's folder, the demo's three first.

    Raises: RecordingError if there is none, or one can't be read.
    """
    files = sorted((folder / RAW).glob("*.json"))
    if not files:
        raise RecordingError(
            f"{folder / RAW}: no raw data of a run (*.json); make some with `tidegate-spike demo` or `run`"
        )
    recordings = [Recording.load(file) for file in files]
    return sorted(recordings, key=lambda run: (ORDER.index(run.name) if run.name in ORDER else len(ORDER), run.name))


def write_report(folder: Path, recordings: Sequence[Recording], promises: Sequence[Promise] = ()) -> Path:
    """Write `report.png` and `report.html`, which holds the picture and needs no other file.

    Parameters: `folder`, created where missing; `recordings`, at least one; `promises`, shown where given.
    Returns: path of `report.html`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    picture = folder / "report.png"
    draw(recordings, picture)
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    text = template.from_string(PAGE).render(
        runs=recordings,
        rows=summary_rows(recordings),
        promises=promises,
        picture=base64.b64encode(picture.read_bytes()).decode(),
        links=[
            (file.relative_to(folder).as_posix(), label)
            for run in recordings
            for file, label in (
                (locust_report(folder, run.name), f"Locust's report: {run.title}"),
                (raw_file(folder, run.name), f"raw data: {run.title}"),
            )
            if file.exists()
        ],
    )
    page = folder / "report.html"
    page.write_text(text)
    return page
