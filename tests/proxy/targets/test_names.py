"""Names of servers: endpoints as they are written, Aurora's instances, and DNS."""

from __future__ import annotations

import asyncio

import pytest
from tests.support.dns import DNSServer
from tests.support.proxy import eventually

from tidegate_proxy.net.resolve import NameResolutionError, Resolver
from tidegate_proxy.targets.aurora import instance_endpoints, instance_pattern
from tidegate_proxy.targets.endpoint import Endpoint


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("db2", Endpoint("db2", 5432)),
        ("db2.example.com:5433", Endpoint("db2.example.com", 5433)),
        ("::1", Endpoint("::1", 5432)),
        ("[::1]:5433", Endpoint("::1", 5433)),
    ],
)
def test_endpoints(text: str, endpoint: Endpoint) -> None:
    assert Endpoint.parse(text, 5432) == endpoint
    assert Endpoint.parse(str(endpoint), 1) == endpoint


@pytest.mark.parametrize("text", ["db:0", "db:65536", "db:x", "db:"])
def test_ports_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="port"):
        Endpoint.parse(text, 5432)


@pytest.mark.parametrize(
    ("host", "pattern"),
    [
        ("mydb.cluster-c7tj4example.us-east-1.rds.amazonaws.com", "?.c7tj4example.us-east-1.rds.amazonaws.com"),
        ("mydb.cluster-ro-c7tj4example.us-east-1.rds.amazonaws.com", "?.c7tj4example.us-east-1.rds.amazonaws.com"),
        ("mydb.cluster-c7.cn-north-1.rds.amazonaws.com.cn", "?.c7.cn-north-1.rds.amazonaws.com.cn"),
        ("mydb.c7tj4example.us-east-1.rds.amazonaws.com", None),
        ("db.example.com", None),
    ],
)
def test_where_an_aurora_clusters_instances_are(host: str, pattern: str | None) -> None:
    assert instance_pattern(host) == pattern


def test_a_name_that_no_instance_can_have_leads_nowhere() -> None:
    names = ("One-1", "evil.example.com", "a b", "", "two@x")
    assert instance_endpoints(names, "?.c7.example.com", 5432) == [Endpoint("one-1.c7.example.com", 5432)]


def test_an_answer_is_not_kept_beyond_the_question(dns: DNSServer) -> None:
    async def ask() -> None:
        resolver = Resolver([dns.address])
        dns.names["db.example.com"] = "127.0.0.5"
        assert await resolver.addresses("db.example.com") == ["127.0.0.5"]
        dns.names["db.example.com"] = "127.0.0.6"
        assert await resolver.addresses("db.example.com") == ["127.0.0.6"]
        del dns.names["db.example.com"]
        with pytest.raises(NameResolutionError, match=r'the name "db.example.com" does not resolve'):
            await resolver.addresses("db.example.com")
        await resolver.close()

    asyncio.run(ask())


def test_a_burst_of_connections_costs_one_look_up(dns: DNSServer) -> None:
    async def ask() -> None:
        resolver = Resolver([dns.address])
        dns.names["db.example.com"] = "127.0.0.5"
        answers = await asyncio.gather(*(resolver.addresses("db.example.com") for _ in range(50)))
        assert answers == [["127.0.0.5"]] * 50
        # IPv4 and IPv6 are two questions.
        assert dns.asked <= 2
        await resolver.close()

    asyncio.run(ask())


def test_a_look_up_without_an_answer_can_be_given_up_and_addresses_need_none(dns: DNSServer) -> None:
    dns.answering = False

    async def ask() -> None:
        resolver = Resolver([dns.address])
        lookup = asyncio.create_task(resolver.addresses("db.example.com"))
        await asyncio.to_thread(eventually, lambda: dns.asked, what="the question")
        lookup.cancel()
        with pytest.raises(asyncio.CancelledError):
            await lookup
        assert await resolver.addresses("127.0.0.9") == ["127.0.0.9"]
        assert await resolver.addresses("::1") == ["::1"]
        await resolver.close()

    asyncio.run(ask())
