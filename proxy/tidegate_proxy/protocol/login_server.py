"""The proxy as a client: it logs in to a server."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from tidegate_proxy.errors import AuthenticationError, ServerProtocolError
from tidegate_proxy.protocol import decode, encode, wire
from tidegate_proxy.protocol.scram import ScramKeys, md5_password
from tidegate_proxy.protocol.scram_client import ScramClientExchange
from tidegate_proxy.protocol.stream import MessageStream

_int32 = struct.Struct("!i")


@dataclass(slots=True)
class Welcome:
    """What a server tells about a session when it begins.

    `pid` and `key` are what a CancelRequest needs; both are empty for a server that sends no BackendKeyData.
    `asked`, whether it let the proxy in for the password, and not without asking for one.
    """

    parameters: dict[bytes, bytes] = field(default_factory=dict)
    pid: int = 0
    key: bytes = field(default=b"", repr=False)
    asked: bool = False


async def login_server(
    stream: MessageStream,
    *,
    user: str,
    database: str,
    password: str | ScramKeys | None,
    parameters: Mapping[str, str],
    allow_cleartext: bool = True,
) -> Welcome:
    """Log in to a server and wait until it is ready for a query.

    Parameters: `password`, or the keys that a client's login has shown, or None where the server lets the proxy in
    without; `parameters`, settings for the
    StartupMessage beside user and database; `allow_cleartext`, whether a server may have the password as it
    is outside TLS (inside TLS it always may).
    Raises: TargetRefusedError with the server's own error; AuthenticationError when the proxy can't or won't
    give the server what it asks for; ServerProtocolError, also for a server that does not prove itself in
    SCRAM; and what `stream` raises.
    """
    stream.write(encode.startup_message({**parameters, "user": user, "database": database}))
    login = _Login(stream, user, password, allow_cleartext)
    welcome = Welcome()
    for _ in range(wire.MAX_LOGIN_MESSAGES):
        kind, body = await stream.read_message(wire.MAX_LOGIN_MESSAGE)
        if kind == wire.ERROR_RESPONSE:
            raise decode.error_from_fields(decode.parse_error_fields(body))
        if kind in (wire.NOTICE_RESPONSE, wire.NEGOTIATE_PROTOCOL_VERSION):
            continue  # we ask for no more than protocol 3.0, which every server speaks
        if kind == wire.AUTHENTICATION and not login.done:
            login.answer(body)
        elif kind == wire.PARAMETER_STATUS and login.done:
            name, value = decode.parse_parameter_status(body)
            welcome.parameters[name] = value
        elif kind == wire.BACKEND_KEY_DATA and login.done:
            welcome.pid, welcome.key = decode.parse_backend_key_data(body)
        elif kind == wire.READY_FOR_QUERY and login.done:
            if body != bytes((wire.IDLE,)):
                raise ServerProtocolError("malformed ReadyForQuery message from the target server")
            welcome.asked = login.asked
            return welcome
        else:
            raise ServerProtocolError(f"unexpected message of type {kind} from the target server during login")
    raise ServerProtocolError(
        f"the target server sent more than {wire.MAX_LOGIN_MESSAGES} messages without becoming ready"
    )


class _Login:
    """Answers to what a server asks for: one method, once."""

    def __init__(
        self, stream: MessageStream, user: str, password: str | ScramKeys | None, allow_cleartext: bool
    ) -> None:
        self.done = False
        self._stream = stream
        self._user = user
        self._password = password
        self._allow_cleartext = allow_cleartext
        self.asked = False
        self._scram: ScramClientExchange | None = None
        self._expected = 0  # the next code of the SCRAM exchange

    def answer(self, body: bytes) -> None:
        if len(body) < 4:
            raise ServerProtocolError("malformed Authentication message from the target server")
        (code,) = _int32.unpack_from(body)
        data = body[4:]
        if self._scram is not None:
            self._continue_scram(self._scram, code, data)
        elif code == wire.AUTH_OK:
            self._expect(not data)
            self.done = True
        elif self.asked:
            # One that asks a second time, for a weaker method perhaps, is not a server that we know.
            raise ServerProtocolError("the target server asked for authentication twice")
        else:
            self.asked = True
            self._begin(code, data)

    def _begin(self, code: int, data: bytes) -> None:
        if code == wire.AUTH_CLEARTEXT:
            self._expect(not data)
            self._send_cleartext()
        elif code == wire.AUTH_MD5:
            self._expect(len(data) == 4)
            self._stream.write(encode.password_message(md5_password(self._user, self._secret(), data)))
        elif code == wire.AUTH_SASL:
            self._expect(data.endswith(b"\0\0"))
            offered = [name.decode(errors="replace") for name in data.split(b"\0") if name]
            secret = self._password if isinstance(self._password, ScramKeys) else self._secret()
            self._scram = ScramClientExchange(secret, offered, self._stream.channel_binding)
            mechanism, first = self._scram.first()
            self._stream.write(encode.sasl_initial_response(mechanism, first))
            self._expected = wire.AUTH_SASL_CONTINUE
        else:
            method = wire.AUTH_UNSUPPORTED.get(code, f"number {code}")
            raise AuthenticationError(
                f"the target server asks for {method} authentication, which the proxy does not support",
                sqlstate="28000",
                hint="Let the proxy log in by scram-sha-256 in the server's pg_hba.conf.",
            )

    def _continue_scram(self, scram: ScramClientExchange, code: int, data: bytes) -> None:
        if code != self._expected:
            # Above all an AuthenticationOk from a server that has not shown that it knows the password.
            raise ServerProtocolError(
                "the target server left the SCRAM exchange before it proved that it knows the password",
                hint="Check that the address is the right server's.",
            )
        if code == wire.AUTH_SASL_CONTINUE:
            self._stream.write(encode.sasl_response(scram.response(data)))
            self._expected = wire.AUTH_SASL_FINAL
        else:
            scram.verify(data)
            self._scram = None

    def _send_cleartext(self) -> None:
        if not self._stream.secure and not self._allow_cleartext:
            raise AuthenticationError(
                "the target server asks for a cleartext password outside TLS",
                sqlstate="28000",
                hint="Use TLS towards the server, or scram-sha-256 in its pg_hba.conf.",
            )
        self._stream.write(encode.password_message(self._secret().encode()))

    def _secret(self) -> str:
        if self._password is None:
            raise AuthenticationError(
                f'the target server asks for a password for user "{self._user}", and none is configured',
                sqlstate="28000",
                hint="Configure the password with which the proxy logs in as this user.",
            )
        if isinstance(self._password, ScramKeys):
            raise AuthenticationError(
                f'the target server asks for the password itself of user "{self._user}", and the proxy has only what a '
                "SCRAM-SHA-256 login shows",
                sqlstate="28000",
                hint="Let the proxy log in by scram-sha-256 in the server's pg_hba.conf, or configure the password.",
            )
        return self._password

    def _expect(self, well_formed: bool) -> None:
        if not well_formed:
            raise ServerProtocolError("malformed Authentication message from the target server")
