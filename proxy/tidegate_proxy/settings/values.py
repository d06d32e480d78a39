"""The types that settings are made of: what may stand in one field, and what every table has in common."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from tidegate_proxy.protocol.scram import ScramVerifier
from tidegate_proxy.targets.endpoint import Endpoint

YEAR = 365 * 86_400.0
SECRET_FILE_LIMIT = 4096
"""Bytes; a password file larger than this is some other file."""


def is_loopback(host: str) -> bool:
    """True when only programs on the same machine can reach a socket that listens on `host`, or on several hosts."""
    if host in ("", "localhost"):
        return True
    if "," in host:
        return all(is_loopback(one.strip()) for one in host.split(","))
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _without_nul(text: str) -> str:
    # A zero byte ends a string of the PostgreSQL protocol: what follows would be read as another parameter.
    if not text or "\0" in text:
        raise ValueError("must not be empty or contain a zero byte")
    return text


def _host(text: str) -> str:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        if not text.isprintable() or any(character in " /:@[]*?#," for character in text) or not text:
            raise ValueError(
                'must be one host name or IP address, without scheme, port or user, for example "127.0.0.1" '
                'or "db.example.com"'
            ) from None
    return text


def _secret(value: SecretStr) -> SecretStr:
    _without_nul(value.get_secret_value())
    return value


def _verifier(value: SecretStr) -> SecretStr:
    ScramVerifier.parse(value.get_secret_value())
    return value


def _nonempty(path: Any) -> Any:
    if path == "":  # Path("") would be the working directory
        raise ValueError("must not be empty: leave it out, or name a file")
    return path


def _hosts(text: str) -> str:
    for host in text.split(",") if text else ():
        _host(host.strip())
    return text


def _endpoint(text: str) -> str:
    try:
        _host(Endpoint.parse(text, 1).host)
    except ValueError:
        raise ValueError(
            'must be host names or IP addresses, each with a port where it is another, for example "db2.example.com" '
            'or "db2.example.com:5433"'
        ) from None
    return text


def _dns_server(text: str) -> str:
    try:
        ipaddress.ip_address(Endpoint.parse(text, 53).host)
    except ValueError:
        raise ValueError(
            'must be IP addresses, each with a port where it is not 53, for example "10.0.0.2" or "127.0.0.1:5353"'
        ) from None
    return text


def _instance_hosts(text: str) -> str:
    try:
        _host(text.replace("?", "instance"))
    except ValueError:
        text = ""
    if text.count("?") != 1:
        raise ValueError(
            "must be a host name with one ? in place of an instance's name, "
            'for example "?.c7tj4example.us-east-1.rds.amazonaws.com"'
        )
    return text


Host = Annotated[str, AfterValidator(_host)]
ListenHosts = Annotated[str, AfterValidator(_hosts)]
EndpointText = Annotated[str, AfterValidator(_endpoint)]
DNSServer = Annotated[str, AfterValidator(_dns_server)]
InstanceHosts = Annotated[str, AfterValidator(_instance_hosts)]
File = Annotated[Path, BeforeValidator(_nonempty)]
Name = Annotated[str, AfterValidator(_without_nul)]
Password = Annotated[SecretStr, AfterValidator(_secret)]
Verifier = Annotated[SecretStr, AfterValidator(_verifier)]
# Numbers and booleans are strict: TOML has types, and the environment's text is converted before.
Flag = Annotated[bool, Field(strict=True)]
Statements = Annotated[str, AfterValidator(_without_nul)]
PoolSize = Annotated[int, Field(strict=True, ge=1, le=262_143)]  # the most that max_connections can be
Seconds = Annotated[float, Field(strict=True, gt=0, le=YEAR, allow_inf_nan=False)]
SecondsOrZero = Annotated[float, Field(strict=True, ge=0, le=YEAR, allow_inf_nan=False)]


class Model(BaseModel, frozen=True):
    """A table of the configuration: frozen, and nothing in it that nobody knows."""

    model_config = ConfigDict(
        extra="forbid",
        validate_default=True,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )


def password_from(path: Path) -> SecretStr:
    """The password in a file's only line. Raises: ValueError that names the file and never what is in it."""
    try:
        with path.open("rb") as file:
            content = file.read(SECRET_FILE_LIMIT + 1)
        text = content.decode()
    except OSError as error:
        raise ValueError(f"password_file {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"password_file {path} is not UTF-8 text") from None
    # Editors and `echo` end a file with a line break that is no part of the password.
    text = text.removesuffix("\n").removesuffix("\r")
    if not text or len(content) > SECRET_FILE_LIMIT or any(character in text for character in "\n\r\0"):
        raise ValueError(f"password_file {path} must hold the password in one line and nothing else")
    return SecretStr(text)
