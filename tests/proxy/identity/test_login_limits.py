"""Who fails too often fails from then on, and nobody else does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import cast

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.proxy.identity.conftest import Serve, refusal
from tests.support.postgres import Database
from tests.support.proxy import eventually
from tests.support.rawclient import RawClient

from tidegate_proxy.errors import AuthenticationError
from tidegate_proxy.identity.client_login import ClientLogins
from tidegate_proxy.identity.login_limits import ALL_USERS_FACTOR, MAX_ENTRIES, LoginLimits, source_of
from tidegate_proxy.identity.verifiers import ClientVerifiers, Found
from tidegate_proxy.net.stream import Stream
from tidegate_proxy.protocol.scram import ScramVerifier
from tidegate_proxy.settings import Settings


def fail(limits: LoginLimits, count: int, source: str = "a", user: str = "u", now: float = 0.0) -> None:
    for _ in range(count):
        limits.failed(source, user, now)


def test_a_source_is_limited_as_one_user_and_not_as_another_nor_is_another_source() -> None:
    limits = LoginLimits(60)
    fail(limits, 59)
    assert not limits.exceeded("a", "u", 0)
    fail(limits, 1)
    assert limits.exceeded("a", "u", 0)
    assert not limits.exceeded("a", "v", 0)
    assert not limits.exceeded("b", "u", 0)


def test_many_user_names_do_not_help() -> None:
    limits = LoginLimits(60)
    for number in range(60 * ALL_USERS_FACTOR):
        assert not limits.exceeded("a", f"user{number}", 0)
        limits.failed("a", f"user{number}", 0)
    assert limits.exceeded("a", "somebody else", 0)
    assert not limits.exceeded("b", "somebody else", 0)


def test_room_comes_back_with_time_however_long_somebody_went_on_failing() -> None:
    limits = LoginLimits(60)
    fail(limits, 1000)
    assert limits.exceeded("a", "u", 0.9)
    assert not limits.exceeded("a", "u", 1.1)


def test_a_failure_that_was_none_is_taken_back() -> None:
    limits = LoginLimits(1)
    fail(limits, 1)
    limits.forgive("a", "u")
    assert not limits.exceeded("a", "u", 0)


def test_reaching_the_limit_is_reported_once() -> None:
    limits = LoginLimits(3)
    assert [limits.failed("a", "u", 0) for _ in range(5)] == [False, False, True, False, False]


def test_zero_is_no_limit() -> None:
    limits = LoginLimits(0)
    fail(limits, 10_000)
    assert not limits.exceeded("a", "u", 0)


def test_memory_is_bounded_and_what_is_forgotten_is_the_oldest() -> None:
    limits = LoginLimits(1)
    for number in range(MAX_ENTRIES):
        limits.failed(f"source{number}", "u", 0)
    assert not limits.exceeded("source0", "u", 0)
    assert limits.exceeded(f"source{MAX_ENTRIES - 1}", "u", 0)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("uv"), st.floats(0, 5)), max_size=60))
def test_one_source_never_changes_what_holds_for_another(steps: list[tuple[str, str, float]]) -> None:
    both, alone = LoginLimits(3), LoginLimits(3)
    now = 0.0
    for source, user, pause in steps:
        now += pause
        both.failed(source, user, now)
        if source == "a":
            alone.failed(source, user, now)
    assert [both.exceeded("a", user, now) for user in "uv"] == [alone.exceeded("a", user, now) for user in "uv"]


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:1", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_what_counts_as_one_source(address: str, source: str) -> None:
    assert source_of(address) == source


def test_behind_too_many_failures_the_right_password_fails_too_and_looks_the_same(
    serve: Serve, database: Database, role: Callable[..., str]
) -> None:
    other = role("x")
    proxy = serve(
        users={database.user: {"password": database.password}, other: {"password": "x"}},
        failed_logins_per_minute=2,
    )
    with proxy.connect() as there_before:
        wrong = [refusal(proxy, password=f"wrong {number}") for number in range(2)]
        right = refusal(proxy)
        assert {*wrong} == {right}
        assert "password authentication failed" in right
        assert there_before.execute("SELECT 1").fetchone() == (1,)
    assert "too many failed logins from 127.0.0.1" in proxy.log
    # The same user from elsewhere, and another one from there, notice nothing.
    with RawClient(proxy.parameters, source="127.0.0.2") as client:
        assert client.query("SELECT 1")[-1] == ("Z", b"I")
    with proxy.connect(user=other, password="x") as conn:
        assert conn.execute("SELECT session_user").fetchone() == (other,)


def test_who_keeps_trying_with_the_right_password_gets_in_again(serve: Serve, database: Database) -> None:
    proxy = serve(users={database.user: {"password": database.password}}, failed_logins_per_minute=30)

    def limited() -> bool:
        # On a busy machine, room comes back while the first thirty fail.
        with ThreadPoolExecutor(10) as executor:
            list(executor.map(lambda number: refusal(proxy, password=f"wrong {number}"), range(30)))
        return "too many failed logins from 127.0.0.1" in proxy.log

    eventually(limited, what="the limit")

    def gets_in() -> bool:
        try:
            with proxy.connect() as conn:
                return conn.execute("SELECT true").fetchone() == (True,)
        except psycopg.OperationalError:
            return False

    # What only the limit turns down is no guess: room comes back while it goes on, one login every two seconds.
    eventually(gets_in, timeout=60, what="an end of the limit")


class OneVerifier:
    """Knows one user's password, and no newer one."""

    async def again(self, user: str, database: str) -> list[ScramVerifier]:
        return []

    async def unanswered(self, user: str, database: str) -> bool:
        return False


def test_a_guess_that_was_begun_before_the_others_failed_is_worth_no_more_than_one_after_them() -> None:
    """Checking a cleartext password takes a while, and many connections may have it done at the same time."""
    settings = Settings.model_validate({"failed_logins_per_minute": 2, "databases": {"app": {"host": "127.0.0.1"}}})
    logins = ClientLogins(settings, cast("ClientVerifiers", OneVerifier()))
    stream = cast("Stream", SimpleNamespace(source="a"))
    verifier = ScramVerifier.from_password("s3cret", salt=bytes(16))
    found = Found((verifier,), verifier, uncertain=False)

    async def guess() -> None:
        others_failed = asyncio.Event()

        async def right(_: ScramVerifier) -> bool:
            await others_failed.wait()
            return True

        async def wrong(_: ScramVerifier) -> bool:
            raise AuthenticationError

        last = asyncio.create_task(logins._decide(stream, "u", "app", found, right))
        await asyncio.sleep(0)
        others = [asyncio.create_task(logins._decide(stream, "u", "app", found, wrong)) for _ in range(2)]
        await asyncio.wait(others)
        others_failed.set()
        for task in (last, *others):
            with pytest.raises(AuthenticationError):
                await task
        assert logins.failures == {"password": 2, "limit": 1}

    asyncio.run(guess())
