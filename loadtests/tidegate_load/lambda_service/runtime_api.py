"""Lambda's Runtime API, as AWS's runtime clients call it: /2018-06-01/runtime/...

Each environment has a listening socket of its own, as in Lambda, and the address that a connection came in on
says with certainty which environment calls.
"""

from __future__ import annotations

from aiohttp import web

from .environment import Environment, StateError
from .invocation import MAX_RESPONSE, Answer, error_answer
from .request_body import read_body

_PREFIX = "/2018-06-01/runtime/"
_ACCEPTED = b'{"status":"OK"}\n'


class RuntimeApi:
    """Answers every environment; `environments` maps the port of its socket to each."""

    def __init__(self) -> None:
        self.environments: dict[int, Environment] = {}
        self.protocols = web.Server(self._handle, access_log=None)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        address = request.transport.get_extra_info("sockname") if request.transport is not None else None
        environment = self.environments.get(address[1]) if address else None
        if environment is None or not request.path.startswith(_PREFIX):
            return _error(404, "NotFound", "there is no such operation here")
        try:
            return await self._dispatch(environment, request)
        except StateError as error:
            status = 400 if error.args[0] == "InvalidRequestID" else 403
            return _error(status, error.args[0], "the runtime called out of turn")

    async def _dispatch(self, environment: Environment, request: web.BaseRequest) -> web.StreamResponse:
        parts = request.path.removeprefix(_PREFIX).split("/")
        match request.method, parts:
            case "GET", ["invocation", "next"]:
                return await _next(environment)
            case "POST", ["invocation", request_id, "response"]:
                body = await read_body(request.content, MAX_RESPONSE)
                if body is None:
                    text = f"Response payload size exceeded maximum allowed payload size ({MAX_RESPONSE} bytes)."
                    environment.respond(request_id, error_answer("Function.ResponseSizeTooLarge", text))
                    environment.kill()  # AWS's client exits when it is refused; no other may do otherwise
                    return _error(413, "RequestEntityTooLarge", text)
                environment.respond(request_id, Answer(body))
            case "POST", ["invocation", request_id, "error"]:
                environment.respond(request_id, Answer(await _error_body(request), failed=True))
            case "POST", ["init", "error"]:
                environment.init_error(await _error_body(request))
            case "POST", ["restore", "error"]:
                environment.restore_error(await _error_body(request))
            case "GET", ["restore", "next"]:
                await environment.restore()
                return web.Response(body=b"")
            case _:
                return _error(404, "NotFound", "there is no such operation here")
        return web.Response(status=202, body=_ACCEPTED, content_type="application/json")


async def _next(environment: Environment) -> web.Response:
    invocation = await environment.next()
    if invocation is None:
        return _error(410, "Gone", "this execution environment has ended")
    headers = {
        "Content-Type": "application/json",
        "Lambda-Runtime-Aws-Request-Id": invocation.request_id,
        "Lambda-Runtime-Deadline-Ms": str(invocation.deadline_ms),
        "Lambda-Runtime-Invoked-Function-Arn": invocation.arn,
        "Lambda-Runtime-Trace-Id": invocation.trace_id,
    }
    if invocation.client_context is not None:
        headers["Lambda-Runtime-Client-Context"] = invocation.client_context
    return web.Response(body=invocation.payload, headers=headers)


async def _error_body(request: web.BaseRequest) -> bytes:
    body = await read_body(request.content, MAX_RESPONSE)
    return error_answer("Runtime.Unknown", "the error is too large to report").payload if body is None else body


def _error(status: int, error_type: str, message: str) -> web.Response:
    return web.json_response({"errorType": error_type, "errorMessage": message}, status=status)
