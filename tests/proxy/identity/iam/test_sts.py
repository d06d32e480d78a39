"""The request to STS: to the configured endpoint and nowhere else, bounded in time, size and number."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import aiohttp
import boto3
import pytest
from aiohttp import web
from tests.lambda_layer.identity.services import moto
from tests.proxy.identity.iam.conftest import ACCOUNT, PROXY_ID, REGION, ROLE, known_to, new_key, token_of
from tests.proxy.lifecycle.conftest import Authority

from tidegate_load.postgres import free_port
from tidegate_load.sts.server import StandInSts
from tidegate_load.sts.signature import Key
from tidegate_proxy.identity.iam.answer import MAX_ANSWER, TryAgain
from tidegate_proxy.identity.iam.policy import Principal, PrincipalPattern
from tidegate_proxy.identity.iam.questions import Client, Questions
from tidegate_proxy.identity.iam.reasons import Reason, TokenError
from tidegate_proxy.identity.iam.sts import Sts
from tidegate_proxy.identity.iam.token import parse_proxy_token
from tidegate_proxy.identity.iam.verifier import TokenVerifier
from tidegate_proxy.settings import IamRule, IamSettings
from tidegate_proxy.settings.regions import region

Result = TypeVar("Result")

ANYBODY = Client("192.0.2.1", limited=lambda: False, gone=lambda: False)


def ask(
    endpoint: str, token: str, *, within: float = 20.0, timeout: float = 10.0, proxy_id: str = PROXY_ID
) -> tuple[Principal, Sts]:
    """Have STS asked as often as the time allows."""

    async def run() -> tuple[Principal, Sts]:
        sts = Sts(endpoint, proxy_id=proxy_id, timeout=timeout)
        questions: Questions[Principal] = Questions(4, busy=lambda: TryAgain("busy"))
        hosts = region(REGION).sts_hosts
        parsed = parse_proxy_token(token.encode(), region=REGION, hosts=hosts, now=time.time())
        try:
            found = await questions.ask(b"key", parsed.expires_at, lambda: sts.ask(parsed), ANYBODY, in_seconds(within))
            return found, sts
        finally:
            await questions.close()
            await sts.close()

    return asyncio.run(run())


def verifying(sts: StandInSts, work: Callable[[TokenVerifier], Awaitable[Result]], *, connections: int = 32) -> Result:
    """Run something with a verifier that trusts the STS."""

    async def run() -> Result:
        rules = (IamRule(principal=ROLE, users=("orders",)),)
        settings = IamSettings(
            region=REGION, proxy_id=PROXY_ID, sts_endpoint=sts.url, sts_connections=connections, rules=rules
        )
        verifier = TokenVerifier(settings)
        try:
            return await work(verifier)
        finally:
            await verifier.close()

    return asyncio.run(run())


def in_seconds(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


def test_the_signer_is_named_by_an_sts_that_checks_the_signature(sts: StandInSts, key: Key) -> None:
    found, asked = ask(sts.url, token_of(key))
    assert found.arn == key.arn
    assert found.canonical == ROLE
    assert asked.requests == {"200": 1}
    assert sum(asked.latencies) == 1
    assert asked.seconds > 0


def test_moto_names_the_role_behind_temporary_credentials(sts: StandInSts) -> None:
    with moto() as endpoint:
        credentials = {"aws_access_key_id": "AKIAEXAMPLEEXAMPLE01", "aws_secret_access_key": "secret"}
        client = boto3.client("sts", region_name=REGION, endpoint_url=endpoint, **credentials)
        role = f"arn:aws:iam::{ACCOUNT}:role/service-role/shop"
        given = client.assume_role(RoleArn=role, RoleSessionName="orders")
        client.close()

        async def forward(request: web.Request) -> web.StreamResponse:
            # moto knows a caller by this header alone, and a presigned request has none.
            credential = (
                f"AWS4-HMAC-SHA256 Credential={request.query['X-Amz-Credential']}, SignedHeaders=host, Signature=0"
            )
            url = f"{endpoint}/?Action=GetCallerIdentity&Version=2011-06-15"
            async with (
                aiohttp.ClientSession() as session,
                session.get(url, headers={"Authorization": credential}) as answer,
            ):
                return web.Response(status=answer.status, body=await answer.read(), content_type=answer.content_type)

        sts.fault = forward
        found = given["Credentials"]
        arn = given["AssumedRoleUser"]["Arn"]
        key = Key(found["AccessKeyId"], found["SecretAccessKey"], arn, found["SessionToken"])
        principal, _ = ask(sts.url, token_of(key))
    assert principal.arn == arn
    assert PrincipalPattern.parse(role).matches(principal)


def refusal(endpoint: str, token: str, **keywords: float) -> TokenError:
    with pytest.raises(TokenError) as caught:
        ask(endpoint, token, **keywords)  # type: ignore[arg-type]
    return caught.value


def test_a_redirect_is_not_followed(sts: StandInSts, key: Key) -> None:
    with StandInSts([key]) as elsewhere:

        async def redirect(request: web.Request) -> web.StreamResponse:
            raise web.HTTPTemporaryRedirect(f"{elsewhere.url}{request.rel_url}")

        sts.fault = redirect
        assert refusal(sts.url, token_of(key)).reason is Reason.STS_ANSWER
        assert not elsewhere.answers


def test_an_answer_without_end_is_not_read_to_it(sts: StandInSts, key: Key) -> None:
    async def flood(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b" " * MAX_ANSWER)
        except ConnectionError:
            return response

    sts.fault = flood
    assert refusal(sts.url, token_of(key)).reason is Reason.STS_ANSWER


def test_a_packed_answer_is_not_unpacked(sts: StandInSts, key: Key) -> None:
    async def packed(_: web.Request) -> web.StreamResponse:
        response = web.json_response({"GetCallerIdentityResponse": {}})
        response.headers["Content-Encoding"] = "gzip"
        return response

    sts.fault = packed
    assert refusal(sts.url, token_of(key)).reason is Reason.STS_ANSWER


def test_an_sts_that_never_answers_is_asked_again_and_then_given_up(sts: StandInSts, key: Key) -> None:
    sts.delay = 60
    with pytest.raises(TryAgain, match="did not answer"):
        ask(sts.url, token_of(key), within=1.0, timeout=0.2)


def test_a_server_error_and_a_lost_connection_are_tried_again(sts: StandInSts, key: Key) -> None:
    faults = ["503", "lost", "500"]

    async def fail(request: web.Request) -> web.StreamResponse:
        kind = faults.pop()
        if not faults:
            sts.fault = None
        if kind == "lost":
            assert request.transport is not None
            request.transport.abort()
        return web.Response(status=503 if kind == "lost" else int(kind))

    sts.fault = fail
    found, asked = ask(sts.url, token_of(key))
    assert found.arn == key.arn
    assert asked.requests["500"] == 1
    assert asked.requests["200"] == 1
    assert faults == []


def test_over_https_sts_must_show_a_certificate_that_is_trusted(
    key: Key, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    with StandInSts([key], tls=authority.context("127.0.0.1")) as sts:
        # Whoever could pass for STS could let anybody in.
        with pytest.raises(TryAgain, match=r"no connection to STS.*certificate"):
            ask(sts.url, token_of(key), within=3.0)
        assert not sts.answers
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca))
        assert ask(sts.url, token_of(key))[0].arn == key.arn


def test_over_https_the_certificate_must_be_the_endpoints_own(
    key: Key, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca))
    with (
        StandInSts([key], tls=authority.context("sts.eu-west-1.amazonaws.com.evil.example")) as sts,
        pytest.raises(TryAgain, match=r"no connection to STS.*certificate"),
    ):
        ask(sts.url, token_of(key), within=3.0)


def test_nobody_there_is_told_as_such(key: Key) -> None:
    with pytest.raises(TryAgain, match="no connection to STS"):
        ask(f"http://127.0.0.1:{free_port()}", token_of(key), within=2.0)


def test_one_token_at_once_is_one_question(sts: StandInSts, key: Key) -> None:
    sts.delay = 0.2
    token = token_of(key).encode()

    async def work(verifier: TokenVerifier) -> list[Principal]:
        return await asyncio.gather(*(verifier.verify(token, "orders", ANYBODY, in_seconds(20)) for _ in range(50)))

    assert {found.arn for found in verifying(sts, work)} == {key.arn}
    assert sts.answers == {"ok": 1}


def test_many_with_one_token_ask_a_throttling_sts_no_more_often_than_one_would(sts: StandInSts, key: Key) -> None:
    sts.throttled = 3
    token = token_of(key).encode()

    async def work(verifier: TokenVerifier) -> list[Principal]:
        sources = [Client(f"192.0.2.{each % 5}", lambda: False, lambda: False) for each in range(50)]
        return await asyncio.gather(*(verifier.verify(token, "orders", each, in_seconds(60)) for each in sources))

    # With one turn at a time most of them are in a queue when an attempt fails.
    assert {found.arn for found in verifying(sts, work, connections=1)} == {key.arn}
    assert sts.answers == {"Throttling": 3, "ok": 1}


@pytest.mark.parametrize("first", ["limited", "gone"])
def test_who_may_not_ask_meanwhile_fails_alone_and_the_question_is_the_next_ones(
    sts: StandInSts, key: Key, first: str
) -> None:
    reached, answer = threading.Event(), threading.Event()

    async def hold(_: web.Request) -> web.StreamResponse:
        sts.fault = None
        reached.set()
        await asyncio.to_thread(answer.wait, 60)
        return web.Response(status=500)

    sts.fault = hold
    token = token_of(key).encode()

    async def work(verifier: TokenVerifier) -> None:
        other = known_to(sts, new_key())
        holding = asyncio.ensure_future(verifier.verify(token_of(other).encode(), "orders", ANYBODY, in_seconds(60)))
        assert await asyncio.to_thread(reached.wait, 60)
        stopped = False
        barred = Client("192.0.2.2", lambda: stopped and first == "limited", lambda: stopped and first == "gone")
        waiting = [
            asyncio.ensure_future(verifier.verify(token, "orders", each, in_seconds(60)))
            for each in (barred, ANYBODY, Client("192.0.2.3", lambda: False, lambda: False))
        ]
        await asyncio.sleep(0)
        stopped = True
        answer.set()
        failed, *found = await asyncio.gather(*waiting, return_exceptions=True)
        if first == "limited":
            assert isinstance(failed, TokenError)
            assert failed.reason is Reason.LIMIT
        else:
            assert isinstance(failed, ConnectionResetError)
        assert [each.arn for each in found if isinstance(each, Principal)] == [key.arn] * 2
        assert (await holding).arn == other.arn

    verifying(sts, work, connections=1)
    assert sts.answers == {"fault": 1, "ok": 2}, "one question for both who may ask"


def test_who_gets_no_turn_in_time_is_told_so(sts: StandInSts, key: Key) -> None:
    sts.delay = 60

    async def work(verifier: TokenVerifier) -> None:
        token = token_of(new_key()).encode()
        first = asyncio.ensure_future(verifier.verify(token, "orders", ANYBODY, in_seconds(60)))
        await asyncio.sleep(0)
        with pytest.raises(TryAgain, match="too many tokens are waiting to be checked"):
            await verifier.verify(token_of(key).encode(), "orders", ANYBODY, in_seconds(0.5))
        first.cancel()

    verifying(sts, work, connections=1)


def test_who_gives_up_does_not_end_the_question_of_others(sts: StandInSts, key: Key) -> None:
    sts.delay = 0.5
    token = token_of(key).encode()

    async def work(verifier: TokenVerifier) -> Principal:
        first = asyncio.ensure_future(verifier.verify(token, "orders", ANYBODY, in_seconds(20)))
        await asyncio.sleep(0)
        second = asyncio.ensure_future(verifier.verify(token, "orders", ANYBODY, in_seconds(20)))
        await asyncio.sleep(0)
        first.cancel()
        return await second

    assert verifying(sts, work).arn == key.arn
    assert sts.answers == {"ok": 1}


def test_a_refusal_is_not_kept(sts: StandInSts) -> None:
    late = new_key()
    token = token_of(late).encode()

    async def work(verifier: TokenVerifier) -> Principal:
        with pytest.raises(TokenError, match="InvalidClientTokenId"):
            await verifier.verify(token, "orders", ANYBODY, in_seconds(20))
        known_to(sts, late)  # new credentials take a moment to be known everywhere
        return await verifier.verify(token, "orders", ANYBODY, in_seconds(20))

    assert verifying(sts, work).arn == late.arn


def test_what_is_kept_ends_with_the_token(sts: StandInSts, key: Key) -> None:
    token = token_of(key, age=58.0, expires=60).encode()

    async def work(verifier: TokenVerifier) -> None:
        deadline = in_seconds(30)
        reasons: list[Reason] = []
        while not reasons and asyncio.get_running_loop().time() < deadline:
            try:
                await verifier.verify(token, "orders", ANYBODY, deadline)
            except TokenError as error:
                reasons.append(error.reason)
            await asyncio.sleep(0.05)
        assert reasons == [Reason.EXPIRED]

    verifying(sts, work)


def test_many_questions_share_few_connections(sts: StandInSts) -> None:
    sts.delay = 0.01
    keys = [known_to(sts, new_key()) for _ in range(60)]

    async def work(verifier: TokenVerifier) -> list[Principal]:
        tokens = [token_of(key).encode() for key in keys]
        return await asyncio.gather(*(verifier.verify(token, "orders", ANYBODY, in_seconds(60)) for token in tokens))

    found = verifying(sts, work, connections=5)
    assert [each.arn for each in found] == [key.arn for key in keys]
    assert sts.answers == {"ok": 60}
    assert sts.at_once <= 5
    assert sts.connections <= 5


def test_an_answer_that_is_no_http_shows_nothing_of_the_token(key: Key) -> None:
    def answer(server: socket.socket) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.recv(65_536)
                connection.sendall(b"HTTP/1.1 banana\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer, args=(server,))
        thread.start()
        with pytest.raises(TryAgain, match="no connection to STS") as caught:
            ask(f"http://127.0.0.1:{server.getsockname()[1]}", token_of(key), within=2.0)
        server.shutdown(socket.SHUT_RDWR)
    thread.join()
    assert "X-Amz" not in str(caught.value)
    assert "Action" not in str(caught.value)
