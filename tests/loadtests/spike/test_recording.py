"""Raw data survives being written and read, and damaged data is refused in one clear line."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from tests.loadtests.spike.recordings import demo

from tidegate_load.spike.promises import PROXY
from tidegate_load.spike.recording import Invocation, Recording, RecordingError, ResultReader

HEADER = "time,latency_ms,outcome,cold_start,committed,id\n"


def test_a_recording_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    original = demo()[PROXY]
    original.save(tmp_path / "run.json")
    read = Recording.load(tmp_path / "run.json")
    assert [each._replace(time=0) for each in read.invocations] == [
        each._replace(time=0) for each in original.invocations
    ]
    assert [each.time for each in read.invocations] == pytest.approx([each.time for each in original.invocations])
    read.invocations = original.invocations
    assert read == original


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 1}', '{"format": 99}', "not JSON", '{"format": 1, "x": 2}']
)
def test_damaged_raw_data_is_refused_with_the_files_name(tmp_path: Path, text: str) -> None:
    file = tmp_path / "run.json"
    file.write_text(text)
    with pytest.raises(RecordingError, match=r"run\.json: not the raw data of a run"):
        Recording.load(file)


def test_results_are_read_while_they_are_written_a_half_line_at_a_time(tmp_path: Path) -> None:
    file = tmp_path / "results.csv"
    with closing(ResultReader(file)) as reader:
        assert reader.read() == []
        with file.open("w") as output:
            output.write(HEADER + "1.5,20.25,ok,1,1,7\n2.5,3")
            output.flush()
            assert reader.read() == [Invocation(1.5, 20.25, "ok", True, True, 7)]
            output.write('0.5,"Error: a, b",0,0,8\n')
            output.flush()
            assert reader.read() == [Invocation(2.5, 30.5, "Error: a, b", False, False, 8)]
            assert reader.read() == []


def test_a_line_that_is_not_a_result_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "results.csv"
    file.write_text(HEADER + "1.5,fast,ok,1,1,7\n")
    with closing(ResultReader(file)) as reader, pytest.raises(RecordingError, match=r"results\.csv: unexpected line"):
        reader.read()
