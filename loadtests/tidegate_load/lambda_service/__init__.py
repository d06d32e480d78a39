"""A Lambda service on one machine: Lambda's Invoke API in front, AWS's runtime client behind."""

from .function import ConfigurationError, Function
from .process import LambdaServiceProcess, LambdaServiceStartError, client
from .service import LambdaService

__all__ = [
    "ConfigurationError",
    "Function",
    "LambdaService",
    "LambdaServiceProcess",
    "LambdaServiceStartError",
    "client",
]
