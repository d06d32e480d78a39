"""Everything that the layer logs in any of these tests is searched for what must never be in a log."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

import pytest

# Passwords of the tests' own users, marks that tests put into values, and what every signature or credential shows.
_FORBIDDEN = re.compile(
    r"s3cret-|value-of-a-parameter|X-Amz-(?:Signature|Credential|Security-Token)|k8s-aws-v1\.|SecretString|"
    r"wJalrXUtnFEMI|password=(?!None)",
    re.IGNORECASE,
)


class Collector(logging.Handler):
    """Keeps the text of each record, its arguments and traceback included."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.texts: list[str] = []
        self.setFormatter(logging.Formatter("%(name)s %(levelname)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(self.format(record))
        # Other formatters, Powertools' for one, write the arguments down as they are.
        self.texts.extend(repr(argument) for argument in record.args or ())


def secrets_in(texts: list[str]) -> list[str]:
    """The texts that show what they must not."""
    return [text for text in texts if _FORBIDDEN.search(text)]


@pytest.fixture(autouse=True)
def logged() -> Iterator[list[str]]:
    """What the layer has logged in this test, at every level; it fails the test if a secret or a value is in it."""
    collector = Collector()
    logger = logging.getLogger("tidegate")
    level = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(collector)
    yield collector.texts
    logger.removeHandler(collector)
    logger.setLevel(level)
    assert secrets_in(collector.texts) == []
