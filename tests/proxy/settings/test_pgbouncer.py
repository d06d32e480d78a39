"""PgBouncer's configuration, read as it stands and written as ours."""

from __future__ import annotations

import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner
from pydantic import SecretStr
from tests.proxy.settings.conftest import Load
from tests.support.postgres import Database
from tests.support.proxy import ProxyProcess

from tidegate_proxy.cli import main
from tidegate_proxy.protocol.scram import ScramVerifier
from tidegate_proxy.settings import ConfigurationError, Settings, load_settings
from tidegate_proxy.settings.effective import pool_limits
from tidegate_proxy.settings.pgbouncer import as_toml, translate
from tidegate_proxy.settings.pgbouncer.files import parse_connection_string, read_users
from tidegate_proxy.settings.pgbouncer.keys import GENERAL, PLACED, WITHOUT_EFFECT

# Of its source, src/main.c of 1.25, with the defaults of those for which a word would not do.
KEYS = """
    admin_users application_name_add_host=0 auth_dbname auth_file=userlist.txt auth_hba_file auth_ident_file
    auth_ldap_options auth_query=SELECT auth_type=md5 auth_user autodb_idle_timeout=3600 cancel_wait_timeout=10
    client_idle_timeout=0 client_login_timeout=60 client_tls13_ciphers client_tls_ca_file client_tls_cert_file
    client_tls_ciphers=default client_tls_dheparams=auto client_tls_ecdhcurve=auto client_tls_key_file
    client_tls_protocols=secure client_tls_sslmode=disable conffile default_pool_size=20 disable_pqexec=0 dns_max_ttl=15
    dns_nxdomain_ttl=15 dns_zone_check_period=0 idle_transaction_timeout=0 ignore_startup_parameters job_name=pgbouncer
    listen_addr listen_backlog=128 listen_port=6432 log_connections=1 log_disconnections=1 log_pooler_errors=1
    log_stats=1 logfile max_client_conn=100 max_db_client_connections=0 max_db_connections=0
    max_packet_size=2147483647 max_prepared_statements=200 max_user_client_connections=0 max_user_connections=0
    min_pool_size=0 peer_id=0 pidfile pkt_buf=4096 pool_mode=session query_timeout=0 query_wait_notify=5
    query_wait_timeout=120 reserve_pool_size=0 reserve_pool_timeout=5 resolv_conf sbuf_loopcnt=5 scram_iterations=4096
    server_check_delay=30 server_check_query server_connect_timeout=15 server_fast_close=0 server_idle_timeout=600
    server_lifetime=3600 server_login_retry=15 server_reset_query=DISCARD server_reset_query_always=0
    server_round_robin=0 server_tls13_ciphers server_tls_ca_file server_tls_cert_file server_tls_ciphers=default
    server_tls_key_file server_tls_protocols=secure server_tls_sslmode=prefer service_name so_reuseport=0
    stats_period=60 stats_users suspend_timeout=10 syslog=0 syslog_facility=daemon syslog_ident=pgbouncer
    tcp_defer_accept=45
    tcp_keepalive=1 tcp_keepcnt=0 tcp_keepidle=0 tcp_keepintvl=0 tcp_socket_buffer=0 tcp_user_timeout=0
    track_extra_parameters=IntervalStyle transaction_timeout=0 unix_socket_dir=/tmp unix_socket_group
    unix_socket_mode=0777 user verbose=0
"""
VERIFIER = f"SCRAM-SHA-256$4096:{'c2FsdHNhbHRzYWx0c2FsdA=='}${'A' * 43}=:{'B' * 42}A="
INI = """\
;; a comment
[databases]
foodb = host=db.example.com port=6000 dbname=bar user=baz password='it''s' pool_size=7 reserve_pool=2
"odd name" = host=h auth_user=looker connect_query='SELECT ''1''' timezone=UTC server_lifetime=60
* = host=10.0.0.1
%include more.ini

[pgbouncer]
listen_addr = *
auth_type = scram-sha-256
auth_file = userlist.txt
admin_users = app, gone
pool_mode = transaction
query_wait_timeout = 0
max_client_conn = 500
server_reset_query = DISCARD ALL
pkt_buf = 4096
# the last one
"""


@pytest.fixture
def ini(tmp_path: Path) -> Path:
    (tmp_path / "pgbouncer.ini").write_text(INI)
    (tmp_path / "more.ini").write_text("included = host=h2\n[users]\napp = pool_mode=session max_user_connections=3\n")
    (tmp_path / "userlist.txt").write_text(
        f'"app" "pass""word" more\n"looker" "secret" \n"scram" "{VERIFIER}"\n"old" "md5{"0" * 32}"\n'
    )
    return tmp_path / "pgbouncer.ini"


def test_a_whole_configuration(ini: Path) -> None:
    warnings: list[str] = []
    settings = load_settings(ini, {}, warnings)
    food = settings.databases["foodb"]
    assert (food.host, food.port, food.dbname, food.user, food.tls) == ("db.example.com", 6000, "bar", "baz", "prefer")
    assert food.password == SecretStr("it's")
    limits = pool_limits(settings, food, "anybody")
    assert (limits.pool_size, limits.reserve_pool_size, limits.connection_borrow_timeout) == (7, 2, 365 * 86_400)
    odd = settings.databases["odd name"]
    assert (odd.auth_user, odd.auth_password) == ("looker", SecretStr("secret"))
    assert odd.init_query == "SET timezone TO 'UTC'; SELECT '1'"
    assert odd.server_lifetime == 60
    assert settings.databases["included"].host == "h2"
    assert settings.database("anything") is not None
    assert settings.users["app"].password == SecretStr('pass"word')
    assert (settings.users["app"].pool_mode, settings.users["app"].max_user_connections) == ("session", 3)
    assert settings.users["scram"].verifier is not None
    assert "old" not in settings.users
    assert (settings.listen_host, settings.pool_mode, settings.max_client_conn) == ("0.0.0.0,::", "transaction", 500)
    assert settings.admin_users == ("app",)
    # PgBouncer's own defaults.
    assert (settings.idle_transaction_timeout, settings.client_tls, settings.reserve_pool_size) == (0, "disable", 0)
    assert str(settings.unix_socket_dir) == "/tmp"
    text = "\n".join(warnings)
    assert "these have no effect here: server_reset_query, pkt_buf" in text
    assert "cannot log in: old" in text
    assert "gone" in text
    assert len(warnings) == 3


def test_our_file_from_theirs_says_the_same(ini: Path, load: Load) -> None:
    data, _ = translate(ini)
    assert load(as_toml(data)) == load_settings(ini, {})


def test_the_command_writes_a_file_that_only_its_owner_reads(ini: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    out = tmp_path / "proxy.toml"
    result = runner.invoke(main, ["import-pgbouncer", str(ini), "-o", str(out)])
    assert result.exit_code == 0
    assert "no effect here" in result.stderr
    assert 'pass"word' not in result.output
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert tomllib.loads(out.read_text())["databases"]["foodb"]["port"] == 6000
    assert "no effect here" in out.read_text()
    again = runner.invoke(main, ["import-pgbouncer", str(ini), "-o", str(out)])
    assert (again.exit_code, "is there already" in again.stderr) == (1, True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[pgbouncer]\nlisten_prot = 1\n", "listen_prot: unknown parameter; did you mean listen_port?"),
        ("[pgbouncer]\nlisten_port = many\n", "listen_port: must be a number"),
        ("[databases]\na = host=h pool_sise=1\n", "databases.a.pool_sise: unknown parameter; did you mean pool_size?"),
        ("[databases]\na = host='h\n", "databases.a: is not a connection string"),
        ("[databases]\nnonsense\n", 'line 2: must have the form "key = value"'),
        ("a = 1\n", "line 1: stands before the first section"),
        ("[nonsense]\na = 1\n", "unknown section"),
        ("[pgbouncer]\nauth_file = nowhere\n", "nowhere: cannot be read"),
        ("[pgbouncer]\n%include pgbouncer.ini\n", "include each other"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "pgbouncer.ini").write_text(text)
    with pytest.raises(ConfigurationError) as refused:
        load_settings(tmp_path / "pgbouncer.ini", {})
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_every_key_is_taken_and_each_without_effect_is_named_in_one_warning(tmp_path: Path) -> None:
    given = dict(part.partition("=")[::2] for part in KEYS.split())
    (tmp_path / "userlist.txt").write_text('"app" "s3cret"\n')
    lines = [f"{key} = {value}" for key, value in given.items()]
    (tmp_path / "pgbouncer.ini").write_text("\n".join(["[databases]", "a = host=h", "[pgbouncer]", *lines]))
    _, warnings = translate(tmp_path / "pgbouncer.ini")
    (warning,) = warnings
    named = warning.partition("these have no effect here: ")[2].split(", ")
    assert sorted(named) == sorted(given.keys() - GENERAL.keys() - PLACED)


def test_who_has_an_md5_hash_is_named_once_with_the_remedy_and_the_others_log_in(tmp_path: Path) -> None:
    hashed = "md5" + "0123456789abcdef" * 2
    (tmp_path / "userlist.txt").write_text(f'"one" "{hashed}"\n"two" "{hashed}"\n"scram" "{VERIFIER}"\n"plain" "p"\n')
    (tmp_path / "pgbouncer.ini").write_text("[databases]\na = host=h\n[pgbouncer]\nauth_file = userlist.txt\n")
    data, warnings = translate(tmp_path / "pgbouncer.ini")
    assert data["users"] == {"scram": {"verifier": VERIFIER}, "plain": {"password": "p"}}
    (warning,) = warnings
    assert "one, two" in warning
    assert "SCRAM secret" in warning
    assert "pg_authid" in warning
    assert hashed not in warning


@pytest.mark.parametrize("kind", ["trust", "any", "cert", "hba", "pam", "ldap", "peer"])
def test_another_way_to_log_in_is_named_with_what_there_is_instead(tmp_path: Path, kind: str) -> None:
    (tmp_path / "pgbouncer.ini").write_text(f"[databases]\na = host=h\n[pgbouncer]\nauth_type = {kind}\n")
    _, warnings = translate(tmp_path / "pgbouncer.ini")
    (warning,) = warnings
    assert f'"{kind}"' in warning
    assert "auth_file or auth_query" in warning


def test_every_key_is_either_a_setting_or_without_effect() -> None:
    assert not (GENERAL.keys() & WITHOUT_EFFECT) | (GENERAL.keys() & PLACED) | (PLACED & WITHOUT_EFFECT)
    assert {name for name, _ in GENERAL.values()} <= Settings.model_fields.keys()


def test_the_example_of_debians_pgbouncer(tmp_path: Path) -> None:
    """With the passwords' file of the example, and with one database, which the example has not."""
    example = Path("/etc/pgbouncer/pgbouncer.ini")
    text = example.read_text() if example.exists() else INI
    (tmp_path / "userlist.txt").write_text('"app" "s3cret"\n')
    text = text.replace("/etc/pgbouncer/", "").replace("[databases]", "[databases]\nextra = host=h", 1)
    (tmp_path / "more.ini").write_text("")
    (tmp_path / "pgbouncer.ini").write_text(text)
    assert load_settings(tmp_path / "pgbouncer.ini", {}).databases["extra"].host == "h"


def test_connection_strings_and_lists_of_users(tmp_path: Path) -> None:
    assert parse_connection_string("a=1  b = 'x y' c='' d=it") == {"a": "1", "b": "x y", "c": "", "d": "it"}
    (tmp_path / "u").write_text('; comment\n"a""b" "c""d"\nnot quoted\n')
    assert read_users(tmp_path / "u") == {'a"b': 'c"d'}


@pytest.fixture
def served(tmp_path: Path, database: Database) -> Iterator[ProxyProcess]:
    with database.server.connect() as conn:
        row = conn.execute("SELECT rolpassword FROM pg_authid WHERE rolname = %s", [database.user]).fetchone()
    assert row is not None
    ScramVerifier.parse(row[0])
    (tmp_path / "userlist.txt").write_text(f'"{database.user}" "{row[0]}"\n')
    configuration = (
        f"[databases]\n* = host={database.server.host} port={database.server.port}\n[pgbouncer]\nlisten_port = 0\n"
        f"listen_addr = 127.0.0.1\nauth_type = scram-sha-256\nunix_socket_dir = {tmp_path}\n"
        "auth_file = userlist.txt\npool_mode = transaction\ndefault_pool_size = 2\nserver_check_delay = 10\n"
    )
    proxy = ProxyProcess(tmp_path, database, configuration, name="pgbouncer.ini")
    proxy.wait_until_listening()
    yield proxy
    proxy.close()


def test_serving_it(served: ProxyProcess) -> None:
    """With SCRAM secrets only, as PgBouncer does it: the server is logged in to with what the client has shown."""
    with served.connect() as conn, served.connect(host=str(served.config.parent)) as other:
        for each in (conn, other):
            assert each.execute("SELECT current_database()").fetchone() == (served.database.name,)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        served.connect(password="wrong")
    assert "these have no effect here: server_check_delay" in served.log
