"""Tidegate's infrastructure as CDK constructs.

`from tidegate_infra import TidegateProxy, ProxyTarget` and so on. Each is imported when it is first asked for: CDK
takes seconds to start, which not everything here needs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tidegate_infra import node as node  # first: it says where CDK finds Node

if TYPE_CHECKING:
    from tidegate_infra.alarms import Thresholds, TidegateAlarms
    from tidegate_infra.dashboard import TidegateDashboard
    from tidegate_infra.endpoint import EndpointType
    from tidegate_infra.errors import DeploymentError
    from tidegate_infra.functions import Connection, TidegateFunctionAspect, attach_function
    from tidegate_infra.layer import TidegateLayer
    from tidegate_infra.load_test import LoadTestRunner
    from tidegate_infra.proxy import TidegateProxy
    from tidegate_infra.proxy_target import ProxyTarget
    from tidegate_infra.scaling import Scaling
    from tidegate_infra.service import SpotMix

__all__ = [
    "Connection",
    "DeploymentError",
    "EndpointType",
    "LoadTestRunner",
    "ProxyTarget",
    "Scaling",
    "SpotMix",
    "Thresholds",
    "TidegateAlarms",
    "TidegateDashboard",
    "TidegateFunctionAspect",
    "TidegateLayer",
    "TidegateProxy",
    "attach_function",
]

_MODULES = {
    "Connection": "functions",
    "DeploymentError": "errors",
    "EndpointType": "endpoint",
    "LoadTestRunner": "load_test",
    "ProxyTarget": "proxy_target",
    "Scaling": "scaling",
    "SpotMix": "service",
    "Thresholds": "alarms",
    "TidegateAlarms": "alarms",
    "TidegateDashboard": "dashboard",
    "TidegateFunctionAspect": "functions",
    "TidegateLayer": "layer",
    "TidegateProxy": "proxy",
    "attach_function": "functions",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
