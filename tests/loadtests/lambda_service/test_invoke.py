"""The Invoke API, as boto3 sees it."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.exceptions import ClientError
from tests.loadtests.lambda_service.helpers import Service, eventually

NAMES = ("plain", "reused", "stacked", "parallel", "dry", "event", "named", "sizes", "tail", "orphan")


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    handlers = dict.fromkeys(NAMES, "app.echo") | {"describe": "app.describe"}
    with Service(handlers, timeout=60) as running:
        yield running


def test_an_answer_has_lambdas_headers_and_ours(service: Service) -> None:
    first, second = service.invoke("plain", tide="high"), service.invoke("plain")
    assert first.status == 200
    assert first.error is None
    assert first.payload["event"] == {"tide": "high"}
    assert first.headers["x-amz-executed-version"] == "$LATEST"
    assert first.headers["x-amzn-requestid"] != second.headers["x-amzn-requestid"]
    assert float(first.headers["x-tidegate-init-duration-ms"]) > 0
    assert "x-tidegate-init-duration-ms" not in second.headers


def test_an_idle_environment_is_always_reused(service: Service) -> None:
    answers = [service.invoke("reused") for _ in range(100)]
    assert [answer.cold_start for answer in answers] == [True] + [False] * 99
    assert [answer.payload["invocations"] for answer in answers] == list(range(1, 101))
    assert service.stats("reused") == {
        "invocations": 100,
        "errors": 0,
        "throttles": 0,
        "timeouts": 0,
        "init_errors": 0,
        "cold_starts": 1,
        "peak_environments": 1,
        "environments": 1,
        "idle": 1,
        "busy": 0,
    }


def test_each_concurrent_invocation_gets_an_environment_of_its_own(service: Service, tmp_path: Path) -> None:
    begun = [service.begin("parallel", wait_for=str(tmp_path / "go")) for _ in range(8)]
    eventually(lambda: service.stats("parallel")["busy"] == 8, "eight environments are busy")
    (tmp_path / "go").touch()
    answers = [invocation.result() for invocation in begun]
    assert all(answer.cold_start for answer in answers)
    assert len({answer.payload["pid"] for answer in answers}) == 8
    assert all(answer.payload["invocations"] == 1 for answer in answers)
    assert service.stats("parallel")["idle"] == 8
    assert service.stats("parallel")["peak_environments"] == 8


def test_the_most_recently_used_environment_is_reused_first(service: Service, tmp_path: Path) -> None:
    long = service.begin("stacked", wait_for=str(tmp_path / "go"))
    eventually(lambda: service.stats("stacked")["busy"] == 1, "the first is running")
    short = service.invoke("stacked")
    (tmp_path / "go").touch()
    last = long.result().payload["pid"]
    assert last != short.payload["pid"]
    assert [service.invoke("stacked").payload["pid"] for _ in range(5)] == [last] * 5


def test_a_dry_run_runs_nothing(service: Service) -> None:
    response = service.boto.invoke(FunctionName="dry", InvocationType="DryRun")
    assert response["StatusCode"] == 204
    assert service.stats("dry")["cold_starts"] == 0


def test_an_event_is_accepted_before_it_has_run(service: Service, tmp_path: Path) -> None:
    done = tmp_path / "done"
    event = {"wait_for": str(tmp_path / "go"), "touch": str(done)}
    response = service.boto.invoke(FunctionName="event", InvocationType="Event", Payload=json.dumps(event))
    assert response["StatusCode"] == 202
    assert response["Payload"].read() == b""
    assert not done.exists()
    (tmp_path / "go").touch()
    eventually(done.exists, "the event has run")


@pytest.mark.parametrize(
    "name",
    [
        "named",
        "named:$LATEST",
        "123456789012:function:named",
        "arn:aws:lambda:us-east-1:123456789012:function:named",
        "arn:aws:lambda:us-east-1:123456789012:function:named:$LATEST",
    ],
)
def test_a_function_is_found_by_each_form_of_its_name(service: Service, name: str) -> None:
    assert service.invoke(name).status == 200


@pytest.mark.parametrize(
    "name",
    [
        "other",
        "named:1",
        "arn:aws:lambda:eu-west-1:123456789012:function:named",
        "arn:aws:lambda:us-east-1:210987654321:function:named",
    ],
)
def test_an_unknown_function_is_not_found(service: Service, name: str) -> None:
    with pytest.raises(ClientError, match="Function not found: arn:aws:lambda:") as caught:
        service.invoke(name)
    assert caught.value.response["Error"]["Code"] == "ResourceNotFoundException"
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 404
    assert caught.value.response["ResponseMetadata"]["HTTPHeaders"]["x-amzn-errortype"]


@pytest.mark.parametrize(("kind", "limit"), [("RequestResponse", 6 * 2**20), ("Event", 2**20)])
def test_a_payload_may_have_just_so_many_bytes(service: Service, kind: str, limit: int) -> None:
    fits = b'"' + b"x" * (limit - 2) + b'"'
    sizes = [fits, fits + b" "]
    accepted = service.boto.invoke(FunctionName="describe", InvocationType=kind, Payload=sizes[0])
    assert accepted["StatusCode"] in (200, 202)
    accepted["Payload"].close()
    with pytest.raises(service.boto.exceptions.RequestTooLargeException, match=f"limit {limit} bytes"):
        service.boto.invoke(FunctionName="describe", InvocationType=kind, Payload=sizes[1])


@pytest.mark.parametrize("payload", [b"{", b"tide", b"\xff", b"[" * 100_000], ids=["cut", "word", "bytes", "deep"])
def test_a_payload_that_is_not_json_is_refused(service: Service, payload: bytes) -> None:
    with pytest.raises(service.boto.exceptions.InvalidRequestContentException, match="into json"):
        service.boto.invoke(FunctionName="sizes", Payload=payload)
    assert service.stats("sizes")["cold_starts"] == 0


def test_an_empty_payload_is_an_empty_event(service: Service) -> None:
    with service.boto.invoke(FunctionName="plain")["Payload"] as stream:
        assert json.load(stream)["event"] == {}


def test_an_unknown_invocation_type_is_refused(service: Service) -> None:
    with pytest.raises(service.boto.exceptions.InvalidParameterValueException, match="'Later' is none of"):
        service.boto.invoke(FunctionName="plain", InvocationType="Later")


def test_the_client_context_reaches_the_handler(service: Service) -> None:
    context = base64.b64encode(json.dumps({"custom": {"moon": "näh"}}).encode()).decode()
    with service.boto.invoke(FunctionName="describe", ClientContext=context)["Payload"] as stream:
        assert json.load(stream)["custom"] == {"moon": "näh"}
    with pytest.raises(service.boto.exceptions.InvalidRequestContentException, match="Client context"):
        service.boto.invoke(FunctionName="describe", ClientContext="bm90IGpzb24=")


def test_the_tail_of_the_log_is_of_this_invocation_only(service: Service) -> None:
    logs = []
    for word in ("ebb", "flow"):
        response = service.boto.invoke(
            FunctionName="tail", LogType="Tail", Payload=json.dumps({"say": word * 2000 + word})
        )
        response["Payload"].close()
        logs.append(base64.b64decode(response["LogResult"]).decode())
        assert response["ResponseMetadata"]["RequestId"] in logs[-1]
    assert "ebb" in logs[0]
    assert "Init Duration:" in logs[0]
    assert len(logs[1]) == 4096
    assert "ebb" not in logs[1]
    assert "Init Duration:" not in logs[1]


def test_a_client_that_hangs_up_does_not_stop_the_invocation(service: Service, tmp_path: Path) -> None:
    host, _, port = service.process.endpoint.removeprefix("http://").partition(":")
    event = json.dumps({"wait_for": str(tmp_path / "go"), "touch": str(tmp_path / "done")}).encode()
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            b"POST /2015-03-31/functions/orphan/invocations HTTP/1.1\r\nHost: x\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(event), event)
        )
        eventually(lambda: service.stats("orphan")["busy"] == 1, "the invocation is running")
    (tmp_path / "go").touch()
    eventually((tmp_path / "done").exists, "the invocation ran to its end")
    eventually(lambda: service.stats("orphan")["idle"] == 1, "its environment is idle again")
    assert service.stats("orphan")["invocations"] == 1
    assert not service.invoke("orphan").cold_start


def test_an_answer_is_written_in_one_piece(service: Service) -> None:
    # Two writes would meet Nagle and a delayed acknowledgement: 40 ms for each invocation.
    host, _, port = service.process.endpoint.removeprefix("http://").partition(":")
    request = b"POST /2015-03-31/functions/plain/invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
    with socket.create_connection((host, int(port))) as connection:
        for _ in range(20):
            connection.sendall(request)
            head, _, body = connection.recv(65536).partition(b"\r\n\r\n")
            assert f"Content-Length: {len(body)}".encode() in head
            assert json.loads(body)["event"] == {}
