"""The three scenarios on embedded PostgreSQL: what is started for each, and what is measured while it runs."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import psycopg

from tidegate_load.lambda_service import LambdaServiceProcess, LambdaServiceStartError
from tidegate_load.postgres import UNENCRYPTED, EmbeddedPostgres
from tidegate_load.spike.connections import ConnectionSampler
from tidegate_load.spike.interrupt import Interruption
from tidegate_load.spike.load import LoadSize, LoadTarget, start_locust
from tidegate_load.spike.processes import Child, StepError
from tidegate_load.spike.promises import DIRECT, LAYER, PROXY
from tidegate_load.spike.proxy_process import ProxyProcess
from tidegate_load.spike.recording import Accounting, Recording, ResultReader, ServiceSample
from tidegate_load.spike.report import locust_report

SAMPLES = Path(__file__).resolve().parents[3] / "samples"
DATABASE = "spike"
ROLE = "counter"
"""The role that the functions log in as."""

TICK = 0.25
"""Seconds between two looks at what runs."""

INIT_TIMEOUT = 30.0
"""Seconds that an environment may take to start."""

SETTLE_TIMEOUT = 20.0
"""Seconds that the functions' transactions may take to end after their environments were killed."""


@dataclass(frozen=True)
class Scenario:
    """One way to connect functions to the database."""

    name: str
    title: str
    sample: str
    """Folder below samples/."""
    proxied: bool = False
    patience: float = 1.0
    """Times the demo's function timeout and longest duration. Where most fail, longer only means longer; where none may
    fail, a busy machine must not be what fails them."""


SCENARIOS = (
    Scenario(DIRECT, "direct", "counter_direct"),
    Scenario(LAYER, "layer alone", "counter"),
    Scenario(PROXY, "layer and proxy", "counter", proxied=True, patience=2.0),
)


@dataclass(frozen=True)
class SpikeSize:
    """Sizes of the whole demo; times in seconds."""

    load: LoadSize = field(default_factory=LoadSize)
    max_connections: int = 100
    pool_size: int = 20
    function_timeout: float = 15.0
    work: float = 1.0
    """What an invocation takes beside its database work: no function does nothing else, and one that took no time could
    hardly be in flight five hundred times."""


@dataclass
class Progress:
    """What a person wants to see while a scenario runs."""

    title: str
    phase: str = "starting"
    peak: int = 0
    environments: int = 0
    in_flight: int = 0
    done: int = 0
    failed: int = 0
    connections: int = 0
    max_connections: int = 0


Watch = Callable[[Progress], None]


def start_postgres(size: SpikeSize, password: str) -> EmbeddedPostgres:
    """A server whose every connection is free for the functions, apart from the sampler's.

    Raises: PostgresStartError, PostgresNotFoundError.
    """
    server = EmbeddedPostgres(
        settings={
            "max_connections": str(size.max_connections),
            # By default three connections are kept for superusers; here all can be seen in use.
            "superuser_reserved_connections": "0",
        }
    )
    try:
        server.start()
        server.create_user(ROLE, password)
        server.create_database(DATABASE, owner=ROLE)
    except BaseException:
        server.close()
        raise
    return server


class Stage:
    """The database that all scenarios share, the sampler that watches it, and where everything is written.

    Parameters: `password` of the role ROLE; `folder`, the report's.
    """

    def __init__(
        self,
        server: EmbeddedPostgres,
        sampler: ConnectionSampler,
        password: str,
        size: SpikeSize,
        folder: Path,
        interruption: Interruption,
        watch: Watch,
    ) -> None:
        self.server = server
        self.sampler = sampler
        self.size = size
        self.folder = folder
        self._interruption = interruption
        self._watch = watch
        self._parameters = server.parameters(user=ROLE, password=password, dbname=DATABASE) | UNENCRYPTED

    def run(self, scenario: Scenario) -> Recording:
        """Run one scenario from a fresh table to the accounting.

        Raises: StepError for what broke; InterruptedRunError.
        """
        progress = Progress(scenario.title, peak=self.size.load.peak, max_connections=self.size.max_connections)
        self._watch(progress)
        self._fresh_table()
        timeout = self.size.function_timeout * scenario.patience
        load = replace(
            self.size.load,
            max_duration=self.size.load.max_duration * scenario.patience,
            # Above the function's, whose environments may have to start first.
            read_timeout=2 * timeout + INIT_TIMEOUT,
        )
        recording = Recording(
            scenario.name,
            scenario.title,
            parameters=load.as_dict()
            | {
                "function timeout": timeout,
                "work": self.size.work,
                "max_connections": self.size.max_connections,
            }
            | ({"pool_size": self.size.pool_size} if scenario.proxied else {}),
            function_role=ROLE,
            max_connections=self.sampler.max_connections,
        )
        began = time.time()
        logs = self.folder / "logs"
        with contextlib.ExitStack() as stack:
            proxy: ProxyProcess | None = None
            target = self._parameters
            if scenario.proxied:
                proxy = stack.enter_context(
                    ProxyProcess(
                        self._parameters,
                        pool_size=self.size.pool_size,
                        # The function gives up before: whoever waits longer waits in vain.
                        borrow_timeout=timeout,
                        log=logs / "proxy.log",
                        interruption=self._interruption,
                    )
                )
                target = proxy.parameters
            service = stack.enter_context(self._service(scenario, target, timeout))
            locust = stack.enter_context(
                start_locust(
                    LoadTarget(scenario.sample, endpoint_url=service.endpoint),
                    load,
                    results=logs / f"{scenario.name}.csv",
                    html=locust_report(self.folder, scenario.name),
                    log=logs / f"locust-{scenario.name}.log",
                )
            )
            reader = stack.enter_context(contextlib.closing(ResultReader(logs / f"{scenario.name}.csv")))
            self._follow(locust, service, proxy, reader, recording, progress)
            progress.phase = "counting"
            self._watch(progress)
            recording.service = service.stats()[scenario.sample]
            recording.cpu_seconds = {
                "locust": locust.cpu_seconds,
                "lambda service": _cpu_seconds(service.pid),
            }
            if proxy is not None and proxy.child is not None:
                proxy.child.poll()
                recording.cpu_seconds["proxy"] = proxy.child.cpu_seconds
        recording.connections = self.sampler.since(began)
        if self.sampler.error is not None:
            raise StepError(f"the database's connections could not be sampled: {self.sampler.error}")
        recording.accounting = Accounting.compare(self._stored(), recording.invocations)
        progress.phase = "done"
        self._watch(progress)
        return recording

    # -- steps -----------------------------------------------------------------------------------------------

    def _fresh_table(self) -> None:
        self._interruption.check()
        self._wait_for_slots()
        schema = SAMPLES / "counter/schema.sql"
        try:
            with psycopg.connect(**self._parameters, autocommit=True, connect_timeout=10) as conn:
                conn.execute("DROP TABLE IF EXISTS counter")
                conn.execute(schema.read_bytes())
        except (OSError, psycopg.Error) as error:
            raise StepError(f"the table could not be made from {schema}: {error}") from None

    def _wait_for_slots(self) -> None:
        """Wait until the server has cleared away the connections of the scenario before."""
        deadline = time.monotonic() + SETTLE_TIMEOUT
        while any(owner.startswith(f"{ROLE}/") for owner in self.sampler.last.by_owner):
            if time.monotonic() > deadline:
                raise StepError(
                    f"connections of the role {ROLE} stayed open {SETTLE_TIMEOUT:.0f} s after their functions had ended"
                )
            self._interruption.wait(TICK)

    def _function_logs(self, scenario: Scenario) -> Path:
        folder = self.folder / "logs" / f"functions-{scenario.name}"
        # One file per environment: those of an earlier demo would make it hard to find what belongs together.
        shutil.rmtree(folder, ignore_errors=True)
        return folder

    @contextlib.contextmanager
    def _service(
        self, scenario: Scenario, database: Mapping[str, Any], timeout: float
    ) -> Iterator[LambdaServiceProcess]:
        try:
            service = LambdaServiceProcess(
                {scenario.sample: f"{SAMPLES / scenario.sample}:function.handler"},
                env={
                    "PGHOST": database["host"],
                    "PGPORT": str(database["port"]),
                    "PGDATABASE": database["dbname"],
                    "PGUSER": database["user"],
                    "PGPASSWORD": database["password"],
                    "PGSSLMODE": "disable",
                    "WORK_SECONDS": str(self.size.work),
                },
                timeout=timeout,
                # Lambda's own default for an account; the spike stays below it.
                concurrency=max(1000, self.size.load.peak),
                idle_timeout=300,
                # Lambda starts all that it needs at once. Here they share the processors of one machine, so INIT gets
                # longer than the ten seconds that Lambda gives to one that has a processor to itself.
                init_concurrency=self.size.load.peak,
                init_timeout=INIT_TIMEOUT,
                log_dir=self._function_logs(scenario),
            ).start()
        except LambdaServiceStartError as error:
            raise StepError(f"the Lambda service did not start: {str(error).splitlines()[-1]}") from None
        try:
            yield service
        finally:
            service.close()

    def _follow(
        self,
        locust: Child,
        service: LambdaServiceProcess,
        proxy: ProxyProcess | None,
        reader: ResultReader,
        recording: Recording,
        progress: Progress,
    ) -> None:
        function = next(iter(service.stats()))
        while True:
            ended = locust.poll()
            stats = service.stats()[function]
            now = time.time()
            recording.environments.append(ServiceSample(now, stats["environments"], stats["busy"]))
            recording.invocations += reader.read()
            self._update(progress, recording, stats)
            if ended is not None:
                break
            if proxy is not None and proxy.child is not None and proxy.child.poll() is not None:
                raise proxy.child.failure("ended during the run")
            self._interruption.wait(TICK)
        if ended != 0 or not recording.invocations:
            raise locust.failure(f"ended with status {ended} after {len(recording.invocations)} invocations")

    def _update(self, progress: Progress, recording: Recording, stats: Mapping[str, int]) -> None:
        progress.done = len(recording.invocations)
        progress.failed = recording.failed
        progress.environments = stats["environments"]
        progress.in_flight = stats["busy"]
        progress.connections = self.sampler.last.total
        if progress.done or stats["busy"]:
            progress.phase = "spike"
        self._watch(progress)

    def _stored(self) -> dict[int, int]:
        self._wait_for_slots()
        with psycopg.connect(**self._parameters, autocommit=True, connect_timeout=10) as conn:
            return dict(conn.execute("SELECT id, value FROM counter WHERE value <> 0").fetchall())


def _cpu_seconds(pid: int) -> float:
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    return times.user + times.system
