"""What a function is: its code, its limits, and the environment variables that its code sees."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

REGION = "us-east-1"
ACCOUNT = "123456789012"
VERSION = "$LATEST"

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_VARIABLE = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_HANDLER = re.compile(r"[^\s.:]+(\.[^\s.:]+)+")

# Lambda lets nobody set these; all others it merely proposes.
_RESERVED = frozenset(
    {
        "_HANDLER",
        "_X_AMZN_TRACE_ID",
        "AWS_DEFAULT_REGION",
        "AWS_EXECUTION_ENV",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
        "AWS_LAMBDA_FUNCTION_NAME",
        "AWS_LAMBDA_FUNCTION_VERSION",
        "AWS_LAMBDA_LOG_GROUP_NAME",
        "AWS_LAMBDA_LOG_STREAM_NAME",
        "AWS_LAMBDA_RUNTIME_API",
        "AWS_REGION",
        "LAMBDA_TASK_ROOT",
    }
)


class ConfigurationError(ValueError):
    """A setting cannot be used; the message is one line that names the setting and the remedy."""


@dataclass(frozen=True, kw_only=True)
class Function:
    """One Lambda function and its limits.

    Parameters
    - `name`: 1-64 letters, digits, "-" or "_".
    - `directory`: its code, which the function knows as LAMBDA_TASK_ROOT.
    - `handler`: `module.function`, the module below `directory`.
    - `environment`: its own environment variables.
    - `timeout`: seconds that one invocation may take before its environment is killed.
    - `memory`: MB, only reported to the function.
    - `concurrency`: invocations that may run at once; more are throttled.
    - `idle_timeout`: seconds after which an idle environment is killed.
    - `init_timeout`: seconds that INIT may take.
    - `provisioned`: environments that are started with the service, before anybody invokes them.
    - `workers`: processes in each environment that take invocations at the same time, as on managed instances; 1 is
      Lambda's ordinary way.
    - `extension`: whether an extension is present, which has Lambda announce the end by SIGTERM.

    Raises: ConfigurationError.
    """

    name: str
    directory: Path
    handler: str
    environment: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 3.0
    memory: int = 128
    concurrency: int = 1000
    idle_timeout: float = 300.0
    init_timeout: float = 10.0
    provisioned: int = 0
    workers: int = 1
    extension: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "directory", self.directory.absolute())
        if not _NAME.fullmatch(self.name):
            raise ConfigurationError(
                f"function name {self.name!r}: use 1 to 64 letters, digits, hyphens or underscores"
            )
        if not _HANDLER.fullmatch(self.handler):
            raise ConfigurationError(
                f"function {self.name}: the handler {self.handler!r} is not of the form module.function"
            )
        if not self.directory.is_dir():
            raise ConfigurationError(f"function {self.name}: there is no directory {self.directory}")
        for setting in ("timeout", "memory", "concurrency", "idle_timeout", "init_timeout", "workers"):
            if not getattr(self, setting) > 0:
                raise ConfigurationError(f"function {self.name}: {setting.replace('_', '-')} must be greater than 0")
        for variable, value in self.environment.items():
            if variable in _RESERVED:
                raise ConfigurationError(f"environment variable {variable} is Lambda's own and cannot be set")
            if not _VARIABLE.fullmatch(variable) or "\0" in value:
                raise ConfigurationError(
                    f"environment variable {variable!r}: names are a letter, then letters, digits and "
                    "underscores; values hold no NUL"
                )

    @classmethod
    def parse(cls, text: str, **limits: object) -> Function:
        """A function from `NAME=DIRECTORY:module.handler`; `limits` are the other parameters of `Function`.

        Raises: ConfigurationError.
        """
        name, equals, code = text.partition("=")
        directory, colon, handler = code.rpartition(":")
        if not (equals and colon and directory):
            raise ConfigurationError(f"--function {text!r} is not of the form NAME=DIRECTORY:module.handler")
        return cls(name=name, directory=Path(directory), handler=handler, **limits)  # type: ignore[arg-type]

    @property
    def arn(self) -> str:
        """The function's unqualified ARN, in the one region and account that this service plays."""
        return f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{self.name}"

    def base_variables(self) -> dict[str, str]:
        """What every environment of the function has before Lambda's own variables are added."""
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": "C.UTF-8",
            "TZ": ":UTC",
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            **self.environment,
        }

    def variables(self, *, runtime_api: str, log_stream: str, ahead: bool = False) -> dict[str, str]:
        """The complete environment variables of one execution environment.

        Parameters: `runtime_api`, HOST:PORT; `log_stream`, its name in the log group; `ahead`: it is started before
        anybody invokes it.
        """
        variables = self.base_variables()
        if self.workers > 1:
            variables["AWS_LAMBDA_INITIALIZATION_TYPE"] = "lambda-managed-instances"
            variables["AWS_LAMBDA_MAX_CONCURRENCY"] = str(self.workers)
        elif ahead and variables["AWS_LAMBDA_INITIALIZATION_TYPE"] == "on-demand":
            variables["AWS_LAMBDA_INITIALIZATION_TYPE"] = "provisioned-concurrency"
        return variables | {
            "_HANDLER": self.handler,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EXECUTION_ENV": self._runtime(),
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(self.memory),
            "AWS_LAMBDA_FUNCTION_NAME": self.name,
            "AWS_LAMBDA_FUNCTION_VERSION": VERSION,
            "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{self.name}",
            "AWS_LAMBDA_LOG_STREAM_NAME": log_stream,
            "AWS_LAMBDA_RUNTIME_API": runtime_api,
            "AWS_REGION": REGION,
            "LAMBDA_TASK_ROOT": str(self.directory),
        }

    def _runtime(self) -> str:
        # From 3.12 on AWS's client waits for events in a thread of its own. Before that, the main thread waits in C
        # code, and no Python function is called on a signal.
        version = max(sys.version_info[:2], (3, 12)) if self.extension else sys.version_info[:2]
        return "AWS_Lambda_python{}.{}".format(*version)
