"""What a client is told when something goes wrong."""

from __future__ import annotations

import pytest

from tidegate_proxy import errors


@pytest.mark.parametrize(
    ("kind", "sqlstate"),
    [
        (errors.ClientProtocolError, "08P01"),
        (errors.ServerProtocolError, "08006"),
        (errors.AuthenticationError, "28P01"),
        (errors.BorrowTimeoutError, "53300"),
        (errors.LimitError, "53300"),
        (errors.TargetUnavailableError, "08006"),
        (errors.TargetRefusedError, "08006"),
        (errors.ShutdownError, "57P01"),
    ],
)
def test_an_error_has_its_sqlstate_and_a_message_without_being_given_one(
    kind: type[errors.ProxyError], sqlstate: str
) -> None:
    error = kind()
    assert isinstance(error, errors.ProxyError)
    assert error.sqlstate == sqlstate
    assert error.message


def test_limits_name_the_setting_that_set_them() -> None:
    assert '"connection_borrow_timeout"' in errors.BorrowTimeoutError().message
    assert errors.LimitError().message == "sorry, too many clients already"
    assert '"max_client_conn"' in str(errors.LimitError())


def test_a_wrong_password_is_reported_in_postgresqls_own_words() -> None:
    assert errors.AuthenticationError.password("ann").message == 'password authentication failed for user "ann"'


def test_the_text_of_an_error_has_all_that_a_log_line_needs() -> None:
    error = errors.ProxyError("m", sqlstate="XX001", detail="d", hint="h")
    assert (error.sqlstate, str(error)) == ("XX001", "m DETAIL: d HINT: h")
