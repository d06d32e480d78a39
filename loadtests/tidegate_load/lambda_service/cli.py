"""The command `tidegate-lambda`."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import logging
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import click

from .function import ConfigurationError, Function
from .service import LambdaService
from .spawner import SpawnError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """A Lambda service on this machine: real execution environments behind Lambda's Invoke API."""


@cli.command()
@click.option(
    "--function",
    "functions",
    multiple=True,
    required=True,
    metavar="NAME=DIRECTORY:MODULE.HANDLER",
    help="Repeatable.",
)
@click.option("--env", multiple=True, metavar="KEY=VALUE", help="Environment variable of every function. Repeatable.")
@click.option(
    "--env-json",
    type=click.File(),
    help="More of them, as a JSON object of strings; - is standard input. For secrets: arguments are public.",
)
@click.option("--timeout", type=float, default=3.0, show_default=True, help="Seconds per invocation.")
@click.option("--memory", type=int, default=128, show_default=True, help="MB; only reported to the function.")
@click.option(
    "--concurrency",
    type=int,
    default=1000,
    show_default=True,
    help="Invocations at once, per function; then 429.",
)
@click.option(
    "--idle-timeout",
    type=float,
    default=300.0,
    show_default=True,
    help="Seconds until an idle environment is killed.",
)
@click.option("--init-timeout", type=float, default=10.0, show_default=True, help="Seconds that INIT may take.")
@click.option("--init-concurrency", type=click.IntRange(1), help="Environments in INIT at once. By default 16 per CPU.")
@click.option("--provisioned", type=click.IntRange(0), default=0, help="Environments started ahead, per function.")
@click.option(
    "--workers",
    type=click.IntRange(1),
    default=1,
    help="Processes in each environment that take invocations at once, as on managed instances.",
)
@click.option("--extension", is_flag=True, help="Announce the end of an environment by SIGTERM, 300 ms before SIGKILL.")
@click.option("--fresh", is_flag=True, help="Start new interpreters instead of forks: true cold starts.")
@click.option(
    "--interpreter",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The Python to start, if not this one; implies --fresh. It must find awslambdaric.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port to listen on; 0 takes a free one.")
@click.option(
    "--log-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the functions' logs. By default a temporary one.",
)
def serve(
    functions: tuple[str, ...],
    env: tuple[str, ...],
    env_json: IO[str] | None,
    timeout: float,
    memory: int,
    concurrency: int,
    idle_timeout: float,
    init_timeout: float,
    init_concurrency: int | None,
    provisioned: int,
    workers: int,
    extension: bool,
    fresh: bool,
    interpreter: Path | None,
    host: str,
    port: int,
    log_dir: Path | None,
) -> None:
    """Serve until SIGTERM or SIGINT. When ready, print {"endpoint": URL} as one line."""
    limits = {
        "timeout": timeout,
        "memory": memory,
        "concurrency": concurrency,
        "idle_timeout": idle_timeout,
        "init_timeout": init_timeout,
        "provisioned": provisioned,
        "workers": workers,
        "extension": extension,
        "environment": _variables_from_json(env_json) | _variables(env),
    }
    parsed = [Function.parse(text, **limits) for text in functions]
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        service = {"fresh": fresh, "interpreter": interpreter, "host": host, "port": port, "log_dir": log_dir}
        runner.run(_serve(parsed, **service, starts=init_concurrency))


def main() -> None:
    """Run the command; bad input is one line on stderr and exit status 2."""
    logging.basicConfig(format="tidegate-lambda: %(message)s", level=logging.WARNING)
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        _fail(2, f"{error.format_message()}")
    except click.ClickException as error:
        _fail(2, error.format_message())
    except ConfigurationError as error:
        _fail(2, str(error))
    except SpawnError as error:
        _fail(1, str(error))
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)


async def _serve(functions: list[Function], **settings: Any) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    service = LambdaService(functions, **settings)
    async with service:
        with contextlib.suppress(BrokenPipeError):  # who started us need not read on
            click.echo(json.dumps({"endpoint": service.endpoint}))
        service.died.add_done_callback(lambda _: stopping.set())
        await stopping.wait()
        if service.died.done():
            raise SpawnError(
                "the process that forks environments died; if it was killed, is the machine short of memory?"
            )


def _variables(pairs: tuple[str, ...]) -> dict[str, str]:
    variables = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            # What follows a misplaced "=" may be a secret.
            raise ConfigurationError(f"--env {key!r} is not of the form KEY=VALUE")
        variables[key] = value
    return variables


def _variables_from_json(file: IO[str] | None) -> dict[str, str]:
    if file is None:
        return {}
    try:
        variables = json.load(file)
    except ValueError:
        variables = None
    if not isinstance(variables, dict) or not all(isinstance(value, str) for value in variables.values()):
        raise ConfigurationError(f"--env-json: {file.name} does not hold a JSON object of strings")
    return variables


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if importlib.util.find_spec("uvloop") is None:
        return None
    import uvloop

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def _fail(status: int, message: str) -> None:
    click.echo(f"tidegate-lambda: {message}", err=True)
    sys.exit(status)


if __name__ == "__main__":
    main()
