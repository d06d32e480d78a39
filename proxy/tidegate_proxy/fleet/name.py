"""What a member publishes, as the `application_name` of its control connection, which all users of a server may see."""

from __future__ import annotations

import base64
import ipaddress
import re
import secrets

from tidegate_proxy.fleet.planner import Member

PATTERN = "^tidegate/[0-9a-f]{8}/[0-9]{1,6}/[0-9]{1,6}/[0-9]{1,6}/[0-9A-Za-z_-]{0,24}$"
"""For PostgreSQL and Python alike."""

_MOST = 999_999
_TAG_BITS = 11
_COUNTER_BITS = 31 - _TAG_BITS
_name = re.compile(PATTERN)


def new_id() -> str:
    """An id for this process."""
    return secrets.token_hex(4)


def format_name(member: Member) -> str:
    """`tidegate/id/share/held/demand/address`: at most 61 of the 63 bytes that PostgreSQL keeps."""
    share, held, demand = (min(_MOST, number) for number in (member.share, member.held, member.demand))
    return f"tidegate/{member.id}/{share}/{held}/{demand}/{member.address}"


def parse_name(name: str) -> Member | None:
    """The member of that name; None for the name of something else."""
    if _name.match(name) is None:
        return None
    _, member, share, held, demand, address = name.split("/")
    return Member(member, int(share), int(held), int(demand), address)


def pack_address(host: str, port: int) -> str:
    """An IP address and port in 8 characters, or 24 for IPv6. Raises: ValueError for what is no IP address."""
    packed = ipaddress.ip_address(host).packed + port.to_bytes(2, "big")
    return base64.urlsafe_b64encode(packed).decode()


def unpack_address(text: str) -> tuple[str, int] | None:
    """The address that `pack_address` has packed; None if it has not."""
    try:
        packed = base64.urlsafe_b64decode(text)
        return str(ipaddress.ip_address(packed[:-2])), int.from_bytes(packed[-2:], "big")
    except ValueError:
        return None


def tag_of(member_id: str) -> int:
    """The part of a member's id that its clients' cancel keys carry."""
    return int(member_id, 16) >> (32 - _TAG_BITS)


def process_id(member_id: str) -> int:
    """A process id for a client of this member: random, but for the member's tag."""
    return tag_of(member_id) << _COUNTER_BITS | (secrets.randbelow((1 << _COUNTER_BITS) - 1) + 1)


def tag_of_process(pid: int) -> int:
    """The tag of the member whose client has this process id."""
    return pid >> _COUNTER_BITS & ((1 << _TAG_BITS) - 1)
