"""Clients that log in by a token for the proxy: PostgreSQL, the proxy and the STS are real processes on loopback."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from tests.proxy.identity.iam.conftest import ACCOUNT, ROLE, StartIamProxy, known_to, log_in, new_key, token_of
from tests.proxy.metrics.test_served import samples
from tests.support.postgres import Database
from tests.support.proxy import ProxyProcess, eventually
from tests.support.rawclient import RawClient

from tidegate.retry import REFUSED_LOGINS, connect_may_succeed_later
from tidegate_load.sts.server import StandInSts
from tidegate_load.sts.signature import Key
from tidegate_proxy.protocol import encode

FAILED = r"The IAM authentication failed for the role (\S+)\. Check the IAM token for this role and try again\."


def refused(proxy: ProxyProcess, match: str = FAILED, **keywords: object) -> psycopg.OperationalError:
    with pytest.raises(psycopg.OperationalError, match=match) as caught:
        proxy.connect(**({"sslmode": "require"} | keywords))
    return caught.value


def test_a_token_lets_its_signer_in(iam_proxy: ProxyProcess, key: Key, sts: StandInSts) -> None:
    with iam_proxy.connect(sslmode="require", password=token_of(key), require_auth="password") as conn:
        assert conn.execute("SELECT current_user").fetchone() == (iam_proxy.database.user,)
    assert sts.answers == {"ok": 1}
    assert set(sts.hosts) == {"sts.eu-west-1.amazonaws.com"}, "the header that was signed"


def test_without_tls_it_is_refused_before_anything_is_asked_for(iam_proxy: ProxyProcess) -> None:
    with RawClient(iam_proxy.parameters, login=False) as client:
        client.send(encode.startup_message({"user": iam_proxy.database.user, "database": iam_proxy.database.name}))
        kind, body = client.read()
    assert kind == "E", "and not R, the question for a password"
    assert b"IAM is allowed only with SSL connections." in body
    assert b"C28000\0" in body


def test_the_users_own_password_does_not_do(iam_proxy: ProxyProcess, sts: StandInSts) -> None:
    refused(iam_proxy)
    assert not sts.answers


@pytest.mark.parametrize("position", [40, -60, -1])
def test_a_token_that_was_changed_is_refused(iam_proxy: ProxyProcess, key: Key, position: int) -> None:
    token = token_of(key)
    other = "A" if token[position] != "A" else "B"
    changed = token[:position] + other + (token[position + 1 :] if position != -1 else "")
    refused(iam_proxy, password=changed)


def test_the_sqlstate_has_the_layer_sign_a_new_token_once(iam_proxy: ProxyProcess, key: Key) -> None:
    assert log_in(iam_proxy, token_of(key)) == {}
    error = log_in(iam_proxy, token_of(new_key()))
    assert error["C"] == "28P01"
    assert error["C"] in REFUSED_LOGINS
    assert "D" not in error
    assert "H" not in error


def test_a_signature_by_another_key_is_refused(iam_proxy: ProxyProcess, key: Key, sts: StandInSts) -> None:
    forged = Key(key.access_key, "another secret", key.arn, key.session_token)
    refused(iam_proxy, password=token_of(forged))
    assert sts.answers == {"SignatureDoesNotMatch": 1}


def test_a_token_for_another_proxy_is_refused(iam_proxy: ProxyProcess, key: Key, sts: StandInSts) -> None:
    refused(iam_proxy, password=token_of(key, proxy_id="other-proxy"))
    assert sts.answers == {"SignatureDoesNotMatch": 1}


def test_a_token_of_another_region_or_of_yesterday_reaches_no_sts(
    iam_proxy: ProxyProcess, key: Key, sts: StandInSts
) -> None:
    refused(iam_proxy, password=token_of(key, region="eu-west-2"))
    refused(iam_proxy, password=token_of(key, age=901))
    refused(iam_proxy, password=token_of(key, age=100, expires=60))
    assert not sts.answers


def test_somebody_whom_no_rule_names_learns_no_more_than_a_forger(iam_proxy: ProxyProcess, sts: StandInSts) -> None:
    stranger = known_to(sts, new_key(f"arn:aws:sts::{ACCOUNT}:assumed-role/intruder/x"))
    other_account = known_to(sts, new_key("arn:aws:sts::999999999999:assumed-role/shop/x"))
    messages = {
        str(refused(iam_proxy, password=token_of(each)).diag.message_primary)
        for each in (stranger, other_account, new_key())
    }
    assert len(messages) == 1
    assert sts.answers == {"ok": 2, "InvalidClientTokenId": 1}


def test_users_without_a_rule_are_not_told_apart_from_those_with_one(
    iam_proxy: ProxyProcess, key: Key, sts: StandInSts
) -> None:
    # Nobody logs in to this proxy with a password: an unknown user is asked for a token, too.
    known = refused(iam_proxy, password=token_of(new_key()))
    unknown = refused(iam_proxy, password=token_of(key), user="nobody_known")
    assert str(known.diag.message_primary) == str(unknown.diag.message_primary).replace(
        "nobody_known", iam_proxy.database.user
    )


def test_a_user_with_a_password_who_is_added_while_the_proxy_runs_can_log_in(
    start_iam_proxy: StartIamProxy, database: Database, key: Key
) -> None:
    name = "added_" + database.user
    database.server.create_user(name, "password-of-added")
    try:
        proxy = start_iam_proxy(user=database.user)
        refused(proxy, user=name, password="password-of-added")
        with proxy.config.open("a") as file:
            file.write(f'[users.{name}]\npassword = "password-of-added"\n')
        proxy.process.send_signal(signal.SIGHUP)
        eventually(lambda: "reloaded: " in proxy.log, what="the reload")
        with proxy.connect(sslmode="require", user=name, password="password-of-added") as conn:
            assert conn.execute("SELECT current_user").fetchone() == (name,)
        proxy.connect(sslmode="require", password=token_of(key)).close()
        proxy.stop()
    finally:
        with database.server.connect() as admin:
            admin.execute(f'DROP ROLE "{name}"')


def reload(proxy: ProxyProcess, old: str, new: str) -> None:
    """Change the configuration under the proxy."""
    text = proxy.config.read_text()
    assert old in text
    proxy.config.write_text(text.replace(old, new))
    before = proxy.log.count("reloaded: iam changed")
    proxy.process.send_signal(signal.SIGHUP)
    eventually(lambda: proxy.log.count("reloaded: iam changed") > before, what="the reload")


def test_changed_rules_hold_for_the_next_login_and_what_is_known_of_tokens_is_kept(
    iam_proxy: ProxyProcess, key: Key, sts: StandInSts
) -> None:
    token = token_of(key)
    with iam_proxy.connect(sslmode="require", password=token) as there_before:
        reload(iam_proxy, ROLE, ROLE.replace("role/shop", "role/other"))
        refused(iam_proxy, password=token)
        other = known_to(sts, new_key(f"arn:aws:sts::{ACCOUNT}:assumed-role/other/x"))
        iam_proxy.connect(sslmode="require", password=token_of(other)).close()
        assert there_before.execute("SELECT 1").fetchone() == (1,), "others may still be this user"
        reload(iam_proxy, "role/other", "role/shop")
        iam_proxy.connect(sslmode="require", password=token).close()
    assert sts.answers == {"ok": 2}, "one question for each token"


def test_another_identifier_or_endpoint_of_sts_is_taken_over(
    iam_proxy: ProxyProcess, key: Key, sts: StandInSts
) -> None:
    reload(iam_proxy, "shop-proxy", "new-proxy")
    refused(iam_proxy, password=token_of(key))
    iam_proxy.connect(sslmode="require", password=token_of(key, proxy_id="new-proxy")).close()


def test_iam_comes_and_goes_under_a_proxy(start_iam_proxy: StartIamProxy, database: Database, key: Key) -> None:
    proxy = start_iam_proxy(user=database.user)
    (line,) = [line for line in proxy.config.read_text().splitlines() if line.startswith("iam = ")]
    with proxy.connect(sslmode="require", password=token_of(key)) as by_token:
        reload(proxy, line, "#")
        with proxy.connect(sslmode="require", require_auth="scram-sha-256") as by_password:
            reload(proxy, "#", line)
            refused(proxy)
            proxy.connect(sslmode="require", password=token_of(key)).close()
            for conn in (by_token, by_password):
                assert conn.execute("SELECT 1").fetchone() == (1,)


def test_a_session_outlives_its_token(iam_proxy: ProxyProcess, key: Key) -> None:
    token = token_of(key, age=890)
    with iam_proxy.connect(sslmode="require", password=token) as conn:
        eventually(lambda: log_in(iam_proxy, token).get("C") == "28P01", what="the token's end")
        assert "REASON: expired" in iam_proxy.log
        assert conn.execute("SELECT 1").fetchone() == (1,)


def test_behind_too_many_refused_tokens_a_good_one_is_refused_too_and_only_from_there(
    start_iam_proxy: StartIamProxy, database: Database, key: Key, sts: StandInSts
) -> None:
    proxy = start_iam_proxy(user=database.user, failed_logins_per_minute=2)
    with proxy.connect(sslmode="require", password=token_of(key)) as there_before:
        refusals = [log_in(proxy, token_of(new_key())) for _ in range(2)]
        asked = sum(sts.answers.values())
        refusals.append(log_in(proxy, token_of(key, age=1)))
        assert refusals[0] == refusals[1] == refusals[2]
        assert sum(sts.answers.values()) == asked, "STS is spared"
        assert "REASON: limit: too many failed before it (failed_logins_per_minute)" in proxy.log
        assert log_in(proxy, token_of(key), source="127.0.0.2") == {}
        assert there_before.execute("SELECT 1").fetchone() == (1,)


def test_made_up_tokens_from_one_address_do_not_keep_others_waiting(
    start_iam_proxy: StartIamProxy, database: Database, key: Key, sts: StandInSts
) -> None:
    sts.delay = 1.0
    proxy = start_iam_proxy(user=database.user, failed_logins_per_minute=0, iam={"sts_connections": 1})
    with ThreadPoolExecutor(20) as threads:
        made_up = [threads.submit(log_in, proxy, token_of(new_key())) for _ in range(20)]
        eventually(lambda: any(each.done() for each in made_up), what="the first one's turn")
        assert log_in(proxy, token_of(key), source="127.0.0.2") == {}
        assert sum(not each.done() for each in made_up) > 10, "they wait, and are not asked about before it"
        sts.delay = 0
        assert {each.result()["C"] for each in made_up} == {"28P01"}, "their turns come, too"


def test_of_tokens_that_fail_by_the_limit_meanwhile_sts_is_not_asked(
    start_iam_proxy: StartIamProxy, database: Database, key: Key, sts: StandInSts
) -> None:
    sts.delay = 0.5
    proxy = start_iam_proxy(user=database.user, failed_logins_per_minute=3, iam={"sts_connections": 1})
    tokens = [token_of(new_key()) for _ in range(12)]
    with ThreadPoolExecutor(12) as threads:
        assert {error["C"] for error in threads.map(lambda token: log_in(proxy, token), tokens)} == {"28P01"}
    # Three at first; one more in each 20 s that this takes.
    asked = sts.answers["InvalidClientTokenId"]
    assert 3 <= asked < 12
    assert proxy.log.count("REASON: limit: too many failed before it (failed_logins_per_minute)") == 12 - asked
    assert log_in(proxy, token_of(key), source="127.0.0.2") == {}


def test_other_users_keep_their_passwords(start_iam_proxy: StartIamProxy, database: Database, key: Key) -> None:
    database.server.create_user("by_token_" + database.user, "irrelevant")
    try:
        proxy = start_iam_proxy(user="by_token_" + database.user)
        with proxy.connect(sslmode="require", require_auth="scram-sha-256") as conn:
            assert conn.execute("SELECT 1").fetchone() == (1,)
        refused(proxy, match="password authentication failed", password=token_of(key))
    finally:
        with database.server.connect() as admin:
            admin.execute(f'DROP ROLE "by_token_{database.user}"')


def test_throttling_is_waited_out(iam_proxy: ProxyProcess, key: Key, sts: StandInSts) -> None:
    sts.throttled = 3
    iam_proxy.connect(sslmode="require", password=token_of(key)).close()
    assert sts.answers == {"Throttling": 3, "ok": 1}


def test_throttling_that_lasts_is_told_as_such_and_may_be_tried_again(
    start_iam_proxy: StartIamProxy, database: Database, key: Key, sts: StandInSts
) -> None:
    sts.throttled = 1_000_000
    proxy = start_iam_proxy(user=database.user, client_login_timeout=2)
    error = log_in(proxy, token_of(key))
    assert "could not be completed: AWS is throttling requests" in error["M"]
    assert error["C"] == "57P03"
    assert connect_may_succeed_later(error["C"], error["M"])
    assert "STS is throttling requests (Throttling)" in proxy.log
    sts.throttled = 0
    proxy.connect(sslmode="require", password=token_of(key)).close()


def test_an_sts_that_is_away_is_told_as_such(
    start_iam_proxy: StartIamProxy, database: Database, key: Key, sts: StandInSts
) -> None:
    proxy = start_iam_proxy(
        user=database.user, client_login_timeout=2, iam={"sts_endpoint": sts.url.replace("127.0.0.1", "127.0.0.2")}
    )
    refused(proxy, match="could not be completed: AWS could not be asked", password=token_of(key))
    assert "no connection to STS" in proxy.log


def test_an_sts_that_does_not_answer_is_waited_for_as_long_as_is_configured(
    start_iam_proxy: StartIamProxy, database: Database, key: Key, sts: StandInSts
) -> None:
    sts.delay = 60
    proxy = start_iam_proxy(user=database.user, client_login_timeout=4, iam={"sts_timeout": 0.5})
    refused(proxy, match="could not be completed", password=token_of(key))
    assert "STS did not answer within 0.5 s" in proxy.log


def test_one_token_is_asked_about_once_until_it_expires(iam_proxy: ProxyProcess, key: Key, sts: StandInSts) -> None:
    token = token_of(key)
    for _ in range(5):
        iam_proxy.connect(sslmode="require", password=token).close()
    assert sts.answers == {"ok": 1}
    # Known, but for somebody else: what is kept is who signed it, not whom it lets in.
    refused(iam_proxy, password=token, user="nobody_known")
    assert sts.answers == {"ok": 1}


def test_rules_and_log_say_why_without_the_token(iam_proxy: ProxyProcess, key: Key, sts: StandInSts) -> None:
    stranger = known_to(sts, new_key(f"arn:aws:sts::{ACCOUNT}:assumed-role/intruder/x"))
    tokens = [
        token_of(key, proxy_id="other"),
        token_of(key, age=1000),
        token_of(stranger),
        "tidegate-v1.rubbish!",
        "hunter2-marker",
    ]
    for token in tokens:
        refused(iam_proxy, password=token)
    iam_proxy.connect(sslmode="require", password=token_of(key)).close()
    log = iam_proxy.log
    for reason in ("refused-by-sts", "expired", "principal", "encoding", "no-token"):
        assert f"REASON: {reason}:" in log, log
    assert f'arn:aws:sts::{ACCOUNT}:assumed-role/intruder/x may not log in as "{iam_proxy.database.user}"' in log
    assert ROLE not in log, "whom the rules do name is nobody's business"
    for secret in (*tokens, key.secret_key, str(key.session_token), "hunter2", "tidegate-v1."):
        assert secret not in log


def test_what_is_asked_of_sts_and_for_how_long_is_among_the_metrics(
    start_iam_proxy: StartIamProxy, database: Database, key: Key
) -> None:
    proxy = start_iam_proxy(user=database.user, http_port=0)
    token = token_of(key)
    for _ in range(2):
        assert log_in(proxy, token) == {}
    assert log_in(proxy, token_of(new_key()))["C"] == "28P01"
    found = samples(proxy)
    assert found[("tidegate_iam_verifications_total", (("result", "accepted"),))] == 2
    # The second login was judged by what was known.
    assert found[("tidegate_sts_requests_total", (("result", "200"),))] == 1
    assert found[("tidegate_sts_requests_total", (("result", "403"),))] == 1
    assert found[("tidegate_sts_latency_seconds_count", ())] == 2
    assert found[("tidegate_sts_latency_seconds_sum", ())] > 0
