"""`python -m tidegate_load.sts KEYS.json`: the stand-in as a process of its own."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
from pathlib import Path

from tidegate_load.sts.server import StsApplication, listen
from tidegate_load.sts.signature import Key


def main() -> None:
    """Serve until SIGTERM or SIGINT; the first line on standard output is the endpoint's URL."""
    parser = argparse.ArgumentParser(
        prog="python -m tidegate_load.sts",
        description="An AWS STS that answers GetCallerIdentity alone, for local use. It verifies signatures.",
    )
    parser.add_argument(
        "keys",
        type=Path,
        help='JSON file: [{"access_key": "AKIALOCALLOCALLOCAL", "secret_key": "...", "arn": "arn:aws:..."}, ...];'
        " an ARN as STS tells it, for a role arn:aws:sts::ACCOUNT:assumed-role/ROLE/SESSION; session_token if there is"
        " one",
    )
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; 0, the default, takes any")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before each answer (default: 0)")
    arguments = parser.parse_args()
    try:
        keys = [Key(**each) for each in json.loads(arguments.keys.read_text())]
    except (OSError, ValueError, TypeError) as error:
        parser.error(f"{arguments.keys}: {error}")
    asyncio.run(_serve(StsApplication(keys, delay=arguments.delay), arguments.port))


async def _serve(application: StsApplication, port: int) -> None:
    end = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, end.set)
    runner, port = await listen(application, "127.0.0.1", port)
    print(f"http://127.0.0.1:{port}", flush=True)  # noqa: T201 (what whoever starts it reads)
    await end.wait()
    await runner.cleanup()


if __name__ == "__main__":
    main()
