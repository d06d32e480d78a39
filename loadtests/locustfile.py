"""A spike of Lambda invocations: from nothing to hundreds at once in a few seconds, hold, fall.

    locust -f loadtests/locustfile.py --headless --endpoint-url URL --function counter
    locust -f loadtests/locustfile.py --headless --target aws --function NAME --region eu-central-1

The first runs against the local Lambda service; without --headless Locust shows its web page. Every user invokes
again as soon as it has its answer, so the number of users is the number of invocations in flight.
"""

from __future__ import annotations

import csv
import os
import random
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import boto3
import gevent
import gevent.pool
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, NoRegionError
from locust import LoadTestShape, User, constant, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment

from tidegate_load.spike.outcomes import Outcome, is_cold_start, outcome_of_answer, outcome_of_exception
from tidegate_load.spike.recording import RESULT_COLUMNS

FLUSH_INTERVAL = 0.25
"""Seconds after which a finished invocation is in the results file at the latest."""


class InvocationFailedError(Exception):
    """What Locust's statistics group failures by; its text is the kind of failure."""


def add_options(parser: LocustArgumentParser) -> None:
    """The spike's own options; they also appear on Locust's web page."""
    group = parser.add_argument_group("Spike")
    group.add_argument("--target", choices=["local", "aws"], default="local", help="Where the function runs")
    group.add_argument("--function", default="counter", help="Name of the Lambda function")
    group.add_argument("--endpoint-url", default="http://127.0.0.1:9001", help="Lambda's endpoint; --target local only")
    group.add_argument("--region", default=None, help="AWS region; by default the environment's")
    group.add_argument("--peak", type=int, default=500, help="Invocations in flight at the peak")
    group.add_argument("--ramp", type=float, default=3.0, help="Seconds from nothing to the peak")
    group.add_argument("--hold", type=float, default=10.0, help="Least seconds at the peak")
    group.add_argument("--fall", type=float, default=3.0, help="Seconds from the peak to nothing")
    group.add_argument("--min-invocations", type=int, default=5000, help="Hold the peak until as many have finished")
    group.add_argument("--max-duration", type=float, default=120.0, help="Seconds after which to fall anyway")
    group.add_argument(
        "--read-timeout", type=float, default=60.0, help="Seconds to wait for an answer; above the function's"
    )
    group.add_argument("--ids", type=int, default=1000, help="Each event is {'id': N}, N from 1 to this")
    group.add_argument("--results", default=None, help="CSV file for each invocation's raw data")


class Spike:
    """What all users of one test share: the client, the results file, the count of finished invocations."""

    def __init__(self, environment: Environment) -> None:
        options: Any = environment.parsed_options
        self.function: str = options.function
        self.ids: int = options.ids
        self.finished = 0
        self._calls = gevent.pool.Group()
        self._patience: float = options.read_timeout + 5
        self._request: Any = environment.events.request
        self._log_type = "Tail" if options.target == "aws" else "None"
        # One client for everyone: making one costs tens of milliseconds, and calls may share it.
        self._client = _client(options)
        self._file: TextIO | None = None
        if options.results:
            Path(options.results).parent.mkdir(parents=True, exist_ok=True)
            self._file = Path(options.results).open("w", newline="")  # noqa: SIM115 (closed when the test stops)
            self._rows = csv.writer(self._file, lineterminator="\n")
            self._rows.writerow(RESULT_COLUMNS)
            self._flusher = gevent.spawn(self._flush)

    def _flush(self) -> None:
        while self._file is not None:
            self._file.flush()
            gevent.sleep(FLUSH_INTERVAL)

    def call(self) -> None:
        """Invoke once and wait for the answer.

        Locust ends a user by killing its greenlet, and may do so just after it has sent something. What was sent may
        commit, so it is waited for and recorded all the same: the invocation has a greenlet of its own.
        """
        self._calls.spawn(self.invoke).join()

    def close(self) -> None:
        """Wait for what is in flight, and write out what is left."""
        self._calls.join(timeout=self._patience)
        file, self._file = self._file, None
        if file is not None:
            self._flusher.kill()
            file.close()

    def invoke(self) -> None:
        """Invoke once and record what became of it."""
        row_id = random.randint(1, self.ids)  # noqa: S311 (spreads the load, hides nothing)
        body = b""
        cold = False
        sent = time.time()
        began = time.perf_counter()
        try:
            answer: dict[str, Any] = self._client.invoke(
                FunctionName=self.function, Payload=b'{"id": %d}' % row_id, LogType=self._log_type
            )
            body = answer["Payload"].read()
            outcome = outcome_of_answer(answer.get("FunctionError"), body)
            cold = is_cold_start(answer["ResponseMetadata"]["HTTPHeaders"], answer.get("LogResult"))
        except (BotoCoreError, ClientError, OSError) as error:
            outcome = outcome_of_exception(error)
        latency = (time.perf_counter() - began) * 1000
        self._record(sent, latency, outcome, cold, row_id, len(body))

    def _record(self, sent: float, latency: float, outcome: Outcome, cold: bool, row_id: int, length: int) -> None:
        self.finished += 1
        if self._file is not None:
            self._rows.writerow(
                (f"{sent:.6f}", f"{latency:.3f}", outcome.kind, int(cold), int(outcome.committed), row_id)
            )
        self._request.fire(
            request_type="invoke",
            name=self.function,
            response_time=latency,
            response_length=length,
            exception=None if outcome.ok else InvocationFailedError(outcome.kind),
            context={},
        )


def _remedy(error: Exception, options: Any) -> str:
    if isinstance(error, NoRegionError):
        return "name one with --region or AWS_REGION"
    if isinstance(error, ValueError):
        return "--endpoint-url is what `tidegate-lambda serve` prints, such as http://127.0.0.1:9001"
    if options.target == "aws":
        return "log in with `aws sso login` or `aws configure`, or set AWS_PROFILE or AWS_ACCESS_KEY_ID and its secret"
    return "look at --endpoint-url and --region"


def check_options(environment: Environment, **_: Any) -> None:
    """End Locust with exit status 2 and one line if no call can be made at all; every caller would say the same."""
    options: Any = environment.parsed_options
    try:
        _client(options)
    except (BotoCoreError, ValueError) as error:
        sys.stderr.write(f"{' '.join(str(error).split()).rstrip('.')}: {_remedy(error, options)}\n")
        sys.exit(2)


def _client(options: Any) -> Any:
    config = Config(
        retries={"total_max_attempts": 1},  # a retry would hide exactly what is measured
        max_pool_connections=options.peak,
        connect_timeout=10,
        read_timeout=options.read_timeout,
        tcp_keepalive=True,
        parameter_validation=False,
    )
    if options.target == "aws":
        session = boto3.Session(region_name=options.region)
        client = session.client("lambda", config=config)
        credentials = session.get_credentials()
        if credentials is None:
            raise NoCredentialsError()
        credentials.get_frozen_credentials()  # fetches them where they are made on demand, or says why it cannot
        return client
    # A profile, a configuration file or an HTTP proxy of the shell's has no say in calls within this machine.
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ |= {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    return boto3.client(
        "lambda",
        endpoint_url=options.endpoint_url,
        region_name=options.region or "us-east-1",
        # The local service checks no signature, and making one is a fifth of a call's cost.
        config=config.merge(Config(signature_version=UNSIGNED, proxies={})),
    )


_spike: Spike | None = None


def open_spike(environment: Environment, **_: Any) -> None:
    """A fresh client and results file for each test."""
    global _spike
    _spike = Spike(environment)


def close_spike(**_: Any) -> None:
    """All users have ended; what they have sent may not have."""
    if _spike is not None:
        _spike.close()


class Caller(User):
    """Invokes the function, waits for the answer, invokes again."""

    wait_time = constant(0)

    @task
    def invoke(self) -> None:
        """One invocation."""
        assert _spike is not None, "users start after the test does"
        _spike.call()


class SpikeShape(LoadTestShape):
    """Up to the peak, hold until time and invocations suffice, down to nothing."""

    def reset_time(self) -> None:
        """A new test begins."""
        self.start_time = time.perf_counter()
        self._at_peak: float | None = None
        self._falling: float | None = None

    def tick(self) -> tuple[int, float] | None:
        """Asked once a second: (users, users to start or stop per second), or None when all is over."""
        assert self.runner is not None
        options: Any = self.runner.environment.parsed_options
        now = time.perf_counter() - self.start_time
        peak: int = options.peak
        if self._at_peak is None and self.runner.user_count >= peak:
            self._at_peak = now
        if self._falling is None:
            held = self._at_peak is not None and now - self._at_peak >= options.hold
            enough = _spike is not None and _spike.finished >= options.min_invocations
            if not (held and enough) and now < options.max_duration:
                return peak, max(peak / max(options.ramp, 0.01), 1.0)
            self._falling = now
        gone = (now - self._falling + 1) / max(options.fall, 1.0)
        if gone >= 1:
            return None
        return max(int(peak * (1 - gone)), 1), float(peak)


# As calls: Locust's decorators have no types.
_events: Any = events
_events.init_command_line_parser.add_listener(add_options)
_events.init.add_listener(check_options)
_events.test_start.add_listener(open_spike)
_events.test_stop.add_listener(close_spike)
