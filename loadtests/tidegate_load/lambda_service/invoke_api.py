"""The Invoke API of Lambda, as boto3 calls it, and our own statistics."""

from __future__ import annotations

import base64
import binascii
import json
import re
import uuid

from aiohttp import web

from .function import ACCOUNT, REGION, VERSION
from .invocation import MAX_EVENT_PAYLOAD, MAX_PAYLOAD
from .request_body import read_body
from .scheduler import Outcome, ThrottledError
from .service import LambdaService
from .spawner import SpawnError

_IDENTIFIER = re.compile(
    r"(?:(?:arn:[a-z-]+:lambda:(?P<region>[a-z0-9-]+):)?(?P<account>\d{12}):function:)?"
    r"(?P<name>[A-Za-z0-9_-]+)(?::(?P<qualifier>\$LATEST|[A-Za-z0-9_-]+))?"
)
_LIMITS = {"RequestResponse": MAX_PAYLOAD, "Event": MAX_EVENT_PAYLOAD, "DryRun": MAX_PAYLOAD}
_REQUEST_ID = "x-amzn-RequestId"


class InvokeError(Exception):
    """An error in Lambda's shape.

    Parameters: HTTP `status`; `kind`, the name of Lambda's exception; `message`; `fields`, more of its body.
    """

    def __init__(self, status: int, kind: str, message: str, **fields: str) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.fields = fields

    def response(self) -> web.Response:
        """What the client gets."""
        body = {"Type": "User" if self.status < 500 else "Service", "Message": str(self)} | self.fields
        headers = {"x-amzn-ErrorType": self.kind, _REQUEST_ID: str(uuid.uuid4())}
        return web.json_response(body, status=self.status, headers=headers)


class InvokeApi:
    """HTTP routes for a service."""

    def __init__(self, service: LambdaService) -> None:
        self._service = service

    def application(self) -> web.Application:
        """An aiohttp application with all routes."""
        application = web.Application()
        application.router.add_post("/2015-03-31/functions/{name}/invocations", self._invoke)
        application.router.add_get("/tidegate/stats", self._stats)
        return application

    async def _stats(self, request: web.Request) -> web.Response:
        return web.json_response(self._service.stats())

    async def _invoke(self, request: web.Request) -> web.Response:
        try:
            return await self._checked_invoke(request)
        except InvokeError as error:
            return error.response()
        except ThrottledError:
            reason = "ReservedFunctionConcurrentInvocationLimitExceeded"
            return InvokeError(429, "TooManyRequestsException", "Rate Exceeded.", Reason=reason).response()
        except (SpawnError, OSError) as error:
            return InvokeError(500, "ServiceException", str(error)).response()

    async def _checked_invoke(self, request: web.Request) -> web.Response:
        kind = request.headers.get("X-Amz-Invocation-Type", "RequestResponse")
        limit = _LIMITS.get(kind)
        if limit is None:
            raise InvokeError(
                400,
                "InvalidParameterValueException",
                f"InvocationType {kind!r} is none of {', '.join(_LIMITS)}",
            )
        name = self._function_name(request.match_info["name"], request.query.get("Qualifier"))
        payload = await read_body(request.content, limit)
        if payload is None:
            raise InvokeError(
                413,
                "RequestTooLargeException",
                f"The payload is too large for the {kind} invocation type (limit {limit} bytes)",
            )
        invocation = self._service.invocation(name, _checked_json(payload or b"{}"))
        headers = {_REQUEST_ID: invocation.request_id}
        if trace_id := request.headers.get("X-Amzn-Trace-Id"):
            invocation.trace_id = trace_id
        if kind == "DryRun":
            return web.Response(status=204, headers=headers)
        if kind == "Event":
            self._service.submit(name, invocation)
            return web.Response(status=202, headers=headers)
        invocation.client_context = _client_context(request.headers.get("X-Amz-Client-Context"))
        invocation.wants_log = request.headers.get("X-Amz-Log-Type") == "Tail"
        outcome = await self._service.invoke(name, invocation)
        return _answer(outcome, headers)

    def _function_name(self, identifier: str, qualifier: str | None) -> str:
        match = _IDENTIFIER.fullmatch(identifier)
        name = match["name"] if match else identifier
        qualifier = qualifier or (match["qualifier"] if match else None)
        if (
            match is None
            or name not in self._service.functions
            or qualifier not in (None, VERSION)
            or match["region"] not in (None, REGION)
            or match["account"] not in (None, ACCOUNT)
        ):
            arn = identifier
            if not arn.startswith("arn:"):
                arn = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{name}" + (f":{qualifier}" if qualifier else "")
            raise InvokeError(404, "ResourceNotFoundException", f"Function not found: {arn}")
        return name


def _checked_json(payload: bytes) -> bytes:
    try:
        json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise InvokeError(
            400, "InvalidRequestContentException", f"Could not parse request body into json: {error}"
        ) from None
    return payload


def _client_context(header: str | None) -> str | None:
    if header is None:
        return None
    try:
        text = base64.b64decode(header, validate=True).decode()
        if not isinstance(json.loads(text), dict):
            raise ValueError("it is not an object")
        return json.dumps(json.loads(text))  # on one line and in ASCII, as it travels in a header
    except (binascii.Error, ValueError, RecursionError) as error:
        raise InvokeError(
            400,
            "InvalidRequestContentException",
            f"Client context must be a valid Base64-encoded JSON object: {error}",
        ) from None


def _answer(outcome: Outcome, headers: dict[str, str]) -> web.Response:
    headers |= {
        "Content-Type": "application/json",
        "X-Amz-Executed-Version": VERSION,
        "X-Tidegate-Cold-Start": "1" if outcome.cold_start else "0",
    }
    if outcome.init_milliseconds is not None:
        headers["X-Tidegate-Init-Duration-Ms"] = f"{outcome.init_milliseconds:.2f}"
    if outcome.answer.failed:
        headers["X-Amz-Function-Error"] = "Unhandled"
    if outcome.answer.log_tail:
        headers["X-Amz-Log-Result"] = base64.b64encode(outcome.answer.log_tail).decode()
    return web.Response(body=outcome.answer.payload, headers=headers)
