"""A PostgreSQL server does not outlive whoever started it, however that ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
from tests.support.proxy import eventually

STARTER = """
import sys
from tidegate_load.postgres import EmbeddedPostgres
with EmbeddedPostgres() as server:
    print(server.pid, *server.backend_pids(), server.folder, flush=True)
    sys.stdin.read()
"""


def test_a_killed_parent_takes_its_server_and_its_folder_along() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STARTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        *pids, folder = parent.stdout.readline().split()
        servers = [psutil.Process(int(pid)) for pid in pids]
        watched = psutil.Process(parent.pid).children(recursive=True)
        assert len(servers) > 1
        parent.kill()
    _, alive = psutil.wait_procs([*servers, *watched], timeout=60)
    assert alive == []
    eventually(lambda: not Path(folder).exists(), what="the removal of the folder")


def test_a_server_that_is_stopped_in_order_leaves_no_watcher() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STARTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdin is not None
        parent.stdout.readline()
        watched = psutil.Process(parent.pid).children(recursive=True)
        parent.stdin.close()
        assert parent.wait(60) == 0
    _, alive = psutil.wait_procs(watched, timeout=0)
    assert alive == []
