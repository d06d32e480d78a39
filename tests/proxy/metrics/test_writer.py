"""What CloudWatch reads from standard output are whole lines, whoever else writes there."""

from __future__ import annotations

import fcntl
import os
import sys
import threading

import pytest

from tidegate_proxy.metrics import writer

PAGE = 4096


def test_the_last_metrics_do_not_get_into_lines_that_a_slow_reader_has_not_taken_yet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the end they are written while a thread may still be at those of the latest period."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PAGE)
    texts = [f"{letter * 999}\n" * 1000 for letter in "ab"]
    with os.fdopen(reading, "rb") as source, os.fdopen(writing, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        threads = [threading.Thread(target=writer._write, args=(text, None)) for text in texts]
        for thread in threads:
            thread.start()
        found = source.read(sum(map(len, texts))).decode()
        for thread in threads:
            thread.join(60)
    assert found in ("".join(texts), "".join(reversed(texts)))
