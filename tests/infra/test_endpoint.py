"""Where clients connect."""

from __future__ import annotations

from typing import Any

from tests.infra.template import Assembly


def attributes(properties: Any, name: str) -> dict[str, str]:
    return {entry["Key"]: entry["Value"] for entry in properties[name]}


def test_the_load_balancer_is_internal_and_spreads_over_zones(default: Assembly) -> None:
    balancer = default["proxy"].one("AWS::ElasticLoadBalancingV2::LoadBalancer")
    assert (balancer["Type"], balancer["Scheme"]) == ("network", "internal")
    assert attributes(balancer, "LoadBalancerAttributes")["load_balancing.cross_zone.enabled"] == "true"


def test_it_listens_where_postgresql_does_and_forgets_no_idle_client_before_the_proxy(default: Assembly) -> None:
    proxy = default["proxy"]
    listener = proxy.one("AWS::ElasticLoadBalancingV2::Listener")
    assert (listener["Port"], listener["Protocol"]) == (5432, "TCP")
    idle = int(attributes(listener, "ListenerAttributes")["tcp.idle_timeout.seconds"])
    assert 350 < idle <= 6000
    assert idle > int(proxy.environment()["TIDEGATE_IDLE_CLIENT_TIMEOUT"])


def test_clients_keep_their_addresses_and_a_leaving_task_its_connections(default: Assembly) -> None:
    proxy = default["proxy"]
    found = attributes(proxy.one("AWS::ElasticLoadBalancingV2::TargetGroup"), "TargetGroupAttributes")
    assert found["preserve_client_ip.enabled"] == "true"
    variables = proxy.environment()
    drain = int(variables["TIDEGATE_DRAIN_DELAY"]) + int(variables["TIDEGATE_DRAIN_TIMEOUT"])
    assert drain <= int(found["deregistration_delay.timeout_seconds"]) <= drain + 10
    assert found["deregistration_delay.connection_termination.enabled"] == "false"
    # Nor are clients of a task reset whose /readyz fails for a while.
    assert found["target_health_state.unhealthy.connection_termination.enabled"] == "false"


def test_a_sick_task_gets_no_clients_within_twenty_seconds(default: Assembly) -> None:
    group = default["proxy"].one("AWS::ElasticLoadBalancingV2::TargetGroup")
    assert (group["HealthCheckProtocol"], group["HealthCheckPath"]) == ("HTTP", "/readyz")
    assert group["HealthCheckPort"] == default["proxy"].environment()["TIDEGATE_HTTP_PORT"]
    # At worst the task falls sick just after a check, and each further one waits for its timeout.
    interval, timeout = group["HealthCheckIntervalSeconds"], group["HealthCheckTimeoutSeconds"]
    assert interval + (group["UnhealthyThresholdCount"] - 1) * interval + timeout <= 20


def test_a_name_known_beforehand_stands_for_the_load_balancer(default: Assembly) -> None:
    proxy = default["proxy"]
    # A private zone answers for all of its domain: one for the parent would hide every other name of that domain.
    (zone,) = proxy.of_type("AWS::Route53::HostedZone").values()
    assert zone["Name"] == "proxy.tidegate.internal."
    assert proxy.one("AWS::Route53::RecordSet")["Name"] == "proxy.tidegate.internal."
    assert proxy.text(proxy.body["Outputs"][next(iter(endpoints(proxy)))]["Value"]) == "proxy.tidegate.internal:5432"


def test_the_name_can_be_put_into_a_zone_that_there_is(existing: Assembly) -> None:
    proxy = existing["proxy"]
    assert not proxy.of_type("AWS::Route53::HostedZone")
    record = proxy.one("AWS::Route53::RecordSet")
    assert (record["Name"], record["HostedZoneId"]) == ("db.shop.internal.", "Z0123456789ABCDEFGHIJ")


def endpoints(template: Any) -> list[str]:
    return [
        name for name, output in template.body["Outputs"].items() if "Where clients" in output.get("Description", "")
    ]


def test_dns_has_no_load_balancer_and_registers_every_task(small: Assembly) -> None:
    proxy = small["proxy"]
    assert not proxy.of_type("AWS::ElasticLoadBalancingV2::LoadBalancer")
    assert proxy.one("AWS::ServiceDiscovery::PrivateDnsNamespace")["Name"] == "tidegate-small.internal"
    service = proxy.one("AWS::ServiceDiscovery::Service")
    assert service["Name"] == "proxy"
    (record,) = service["DnsConfig"]["DnsRecords"]
    assert (record["Type"], record["TTL"]) == ("A", 10)
    assert len(proxy.one("AWS::ECS::Service")["ServiceRegistries"]) == 1


def test_a_leaving_task_takes_clients_for_as_long_as_they_may_keep_its_address(small: Assembly) -> None:
    """ECS deregisters a task when it stops it; until Cloud Map has followed, its address is still handed out."""
    proxy = small["proxy"]
    (record,) = proxy.one("AWS::ServiceDiscovery::Service")["DnsConfig"]["DnsRecords"]
    variables = proxy.environment()
    delay, timeout = int(variables["TIDEGATE_DRAIN_DELAY"]), int(variables["TIDEGATE_DRAIN_TIMEOUT"])
    assert delay >= 2 * int(record["TTL"])
    assert delay + timeout < 120
