"""How many clients fit into the process's limit of open files."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest
from tests.proxy.settings.conftest import SERVER, Load

from tidegate_proxy.open_files import fit_to_open_files
from tidegate_proxy.settings import ConfigurationError


def test_settings_that_fit_stay_as_they_are(load: Load) -> None:
    settings = load("max_client_conn = 1000\n" + SERVER)
    for limit in (1125, 1_000_000, resource.RLIM_INFINITY):
        assert fit_to_open_files(settings, limit) == (settings, None)


def test_a_configured_number_that_does_not_fit_is_an_error(load: Load) -> None:
    settings = load("max_client_conn = 1000\n" + SERVER)
    with pytest.raises(ConfigurationError, match=r"set max_client_conn to at most 999$"):
        fit_to_open_files(settings, 1124)


def test_the_default_is_lowered_with_a_warning(load: Load) -> None:
    settings, warning = fit_to_open_files(load(SERVER), 4096)
    assert settings.max_client_conn == 4096 - 25 - 100
    assert warning is not None
    assert warning.startswith("max_client_conn is lowered from 10000 to 3971, ")


def test_a_limit_that_leaves_no_client_is_an_error_even_for_the_default(load: Load) -> None:
    with pytest.raises(ConfigurationError, match=r"the hard limit is 64: raise the limit to 10125 \(.*\)$"):
        fit_to_open_files(load(SERVER), 64)


def test_every_databases_pool_is_counted(load: Load) -> None:
    settings = load(SERVER + '[databases.two]\nhost = "h"\npool_size = 1000\n')
    fitted, _ = fit_to_open_files(settings, 4096)
    assert fitted.max_client_conn == 4096 - 25 - 1005 - 100


def test_the_soft_limit_becomes_the_hard_one() -> None:
    program = (
        "import resource\n"
        "from tidegate_proxy.open_files import raise_open_files\n"
        "_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))\n"
        "raise_open_files()\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard))\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert ran.stdout == "True\n", ran.stderr
