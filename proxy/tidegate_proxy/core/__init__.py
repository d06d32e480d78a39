"""What runs for each message: compiled if it was built so, else interpreted from the same source.

TIDEGATE_PROXY_CORE=interpreted leaves the compiled modules aside; TIDEGATE_PROXY_CORE=compiled insists on them.
"""

from __future__ import annotations

import os
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Final

_WANTED = os.environ.get("TIDEGATE_PROXY_CORE", "")
_FOLDER = Path(__file__).with_name("compiled")

if _WANTED not in ("", "compiled", "interpreted"):
    raise ImportError(f'TIDEGATE_PROXY_CORE is "{_WANTED}": say "compiled", "interpreted" or nothing')

COMPILED: Final = _WANTED != "interpreted" and (_FOLDER / f"client{EXTENSION_SUFFIXES[0]}").exists()
"""Whether the compiled modules are used."""

if COMPILED:
    __path__.insert(0, str(_FOLDER))
    # The compiled modules know each other's types. Wherever an import begins, this one goes first: then each finds what
    # it needs.
    import tidegate_proxy.core.client  # noqa: F401
elif _WANTED == "compiled":
    raise ImportError("TIDEGATE_PROXY_CORE asks for the compiled core, but it was not built: run make build")
