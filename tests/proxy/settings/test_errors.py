"""Whatever is wrong, one exact line says where, what, and what would be right, and never a secret."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.proxy.settings.conftest import SERVER, Certificates, Load

from tidegate_proxy.settings import ConfigurationError, load_settings

SECRET = "hunter2-marker"
NO_DATABASE = (
    'no database is configured: name at least one, in FILE as databases.app.host = "db.example.com" '
    "or as TIDEGATE_DATABASES__APP__HOST=db.example.com"
)
KEY_32 = base64.b64encode(b"k" * 32).decode()
SALT = base64.b64encode(b"s" * 16).decode()


def verifier(iterations: object = 4096, salt: str = SALT, stored: str = KEY_32, server: str = KEY_32) -> str:
    return f"SCRAM-SHA-256${iterations}:{salt}${stored}:{server}"


def user_with(verifier: str) -> str:
    return SERVER + f'[users.app]\nverifier = "{verifier}"\n'


# What is in the file, and what follows "FILE: ".
FILE_CASES = {
    "empty file": ("", f"databases: {NO_DATABASE}"),
    "empty table": ("[databases]\n", f"databases: {NO_DATABASE}"),
    "unknown key": ("listen_prot = 1\n" + SERVER, "listen_prot: unknown key; did you mean listen_port?"),
    "unknown key in a table": (
        SERVER + f'pasword = "{SECRET}"\n',
        "databases.app.pasword: unknown key; did you mean password?",
    ),
    "unknown key like no other": (
        SERVER + f'[users.app]\nzzz = "{SECRET}"\npassword = "{SECRET}"\n',
        (
            "users.app.zzz: unknown key; known are pool_size, reserve_pool_size, max_user_connections, "
            "max_user_client_connections, connection_borrow_timeout, query_timeout, transaction_timeout, "
            "idle_transaction_timeout, idle_client_timeout, password, password_file, verifier, secret, pool_mode"
        ),
    ),
    "misspelled and therefore missing": (
        '[databases.app]\nhots = "db"\n',
        "databases.app.hots: unknown key; did you mean host? (and 1 more problem)",
    ),
    "missing": (
        "[databases.app]\n",
        'databases.app.host: is missing; it must be a non-empty string, for example "db.example.com"',
    ),
    "name that needs quotes": (
        '[databases."My App"]\nhost = 3\n',
        'databases."My App".host: must be a non-empty string, for example "db.example.com"',
    ),
    "line break in a key": (
        '[databases."a\\nb"]\nhost = 3\n',
        'databases."a\\nb".host: must be a non-empty string, for example "db.example.com"',
    ),
    "text for a number": (
        f'listen_port = "{SECRET}"\n' + SERVER,
        "listen_port: must be a whole number from 0 to 65535, for example 6432",
    ),
    "digits as text": (
        'listen_port = "6432"\n' + SERVER,
        "listen_port: must be a whole number from 0 to 65535, for example 6432",
    ),
    "boolean for a number": (
        "default_pool_size = true\n" + SERVER,
        "default_pool_size: must be a whole number from 1 to 262143, for example 20",
    ),
    "number for a boolean": ("check_targets = 1\n" + SERVER, "check_targets: must be true or false"),
    "number for a secret": (
        SERVER + "[users.app]\npassword = 12345678\n",
        "users.app.password: must be a non-empty string",
    ),
    "too large": (
        "listen_port = 65536\n" + SERVER,
        "listen_port: must be a whole number from 0 to 65535, for example 6432",
    ),
    "too small": (
        "[databases.app]\nhost = 'h'\nport = 0\n",
        "databases.app.port: must be a whole number from 1 to 65535, for example 5432",
    ),
    "no time at all": (
        "connection_borrow_timeout = 0\n" + SERVER,
        "connection_borrow_timeout: must be a number of seconds above 0, up to 31536000, for example 120",
    ),
    "negative time": (
        "drain_timeout = -1\n" + SERVER,
        "drain_timeout: must be a number of seconds from 0 to 31536000, for example 110",
    ),
    "not a number": (
        "server_lifetime = nan\n" + SERVER,
        "server_lifetime: must be a number of seconds from 0 to 31536000, for example 3600",
    ),
    "for ever": (
        "server_connect_timeout = inf\n" + SERVER,
        "server_connect_timeout: must be a number of seconds above 0, up to 31536000, for example 15",
    ),
    "not one of": (
        'log_level = "verbose"\n' + SERVER,
        'log_level: must be one of "debug", "info", "warning", "error", for example "info"',
    ),
    "mode without example": (
        'client_tls = "yes"\n' + SERVER,
        'client_tls: must be one of "disable", "allow", "require"',
    ),
    "value for a table": (
        f'users = "{SECRET}"\n' + SERVER,
        'users: must be a table, for example users.app.password_file = "app.password"',
    ),
    "value for a table in a table": (
        f'[databases]\napp = "{SECRET}"\n',
        'databases.app: must be a table, for example databases.app.host = "db.example.com"',
    ),
    "table for a value": (
        f'[listen_port]\na = "{SECRET}"\n' + SERVER,
        "listen_port: must be a whole number from 0 to 65535, for example 6432",
    ),
    "empty name": (
        '[databases.""]\nhost = "h"\n',
        'databases."": is not a name: it must not be empty or contain a zero byte',
    ),
    "zero byte in a name": (
        SERVER + 'dbname = "a\\u0000user"\n',
        "databases.app.dbname: must not be empty or contain a zero byte",
    ),
    "URL for a host": (
        f'[databases.app]\nhost = "postgresql://app:{SECRET}@db"\n',
        (
            "databases.app.host: must be one host name or IP address, without scheme, port or user, "
            'for example "127.0.0.1" or "db.example.com"'
        ),
    ),
    "syntax": (f"a = 1\npassword = {SECRET}\n", "is not valid TOML: Invalid value (at line 2, column 12)"),
    "nested too deeply": ("a = " + "[" * 5000, "is nested too deeply"),
    "endless number": ("a = 1" + "0" * 5000, "is not valid TOML: a number is too long"),
    "user without password": (
        SERVER + "[users.app]\n",
        "users.app: has no password: give exactly one of password, password_file, verifier and secret",
    ),
    "user with password and verifier": (
        user_with(verifier()) + f'password = "{SECRET}"\n',
        "users.app: has password and verifier: give exactly one of password, password_file, verifier and secret",
    ),
    "empty password": (
        SERVER + '[users.app]\npassword = ""\n',
        "users.app.password: must not be empty or contain a zero byte",
    ),
    "not a verifier": (
        user_with(SECRET),
        (
            "users.app.verifier: must have the form SCRAM-SHA-256$iterations:salt$stored:server, "
            "as in pg_authid.rolpassword"
        ),
    ),
    "too few iterations": (
        user_with(verifier(iterations=1)),
        "users.app.verifier: must have from 4096 to 1000000 iterations",
    ),
    "verifier not in base64": (
        user_with(verifier(salt=SECRET)),
        "users.app.verifier: must have salt and keys in base64",
    ),
    "short salt": (
        user_with(verifier(salt="YWJj")),
        "users.app.verifier: must have a salt of at least 12 bytes",
    ),
    "short key": (
        user_with(verifier(stored="YWJj")),
        "users.app.verifier: must have two keys of 32 bytes each",
    ),
    "server password without user": (
        SERVER + f'password = "{SECRET}"\n',
        "databases.app: has a password but no user: add the user that it belongs to",
    ),
    "two server passwords": (
        SERVER + f'user = "u"\npassword = "{SECRET}"\npassword_file = "secret"\n',
        "databases.app: has both password and password_file: keep one of them",
    ),
    "server password and secret": (
        SERVER + f'user = "u"\npassword = "{SECRET}"\nsecret = "shop/db"\n',
        "databases.app: has both password and secret: keep one of them",
    ),
    "secret of a region that is none": (
        SERVER + 'secret = "arn:aws:secretsmanager:eu-wst-1:123456789012:secret:shop"\n',
        'databases.app.secret: is no ARN of a secret: "eu-wst-1" is no AWS region: did you mean "eu-west-1"?',
    ),
    "ARN of something else": (
        SERVER + 'secret = "arn:aws:s3:::bucket"\n',
        (
            "databases.app.secret: is no ARN of a secret: it must have the form "
            "arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME"
        ),
    ),
    "IAM to a server without TLS": (
        SERVER + 'server_auth = "iam"\ntls = "disable"\n',
        'databases.app: has server_auth = "iam", for which RDS demands TLS: remove tls = "disable"',
    ),
    "IAM to a server that may be without TLS": (
        SERVER + 'server_auth = "iam"\ntls = "prefer"\n',
        'databases.app: has server_auth = "iam", for which RDS demands TLS: remove tls = "prefer"',
    ),
    "ARN of a certificate's secret cut short": (
        'client_tls = "require"\nclient_tls_secret = "arn:aws:secretsmanager:eu-west-1"\n' + SERVER,
        (
            "client_tls_secret: is no ARN of a secret: it must have the form "
            "arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME"
        ),
    ),
    "IAM and a password": (
        SERVER + f'server_auth = "iam"\nuser = "u"\npassword = "{SECRET}"\n',
        'databases.app: has both password and server_auth = "iam": keep one of them',
    ),
    "secrets wanted and none given": (
        SERVER + 'server_auth = "secret"\n',
        'databases.app: has server_auth = "secret" but no secret: add its ARN',
    ),
    "password of nobody for auth_query": (
        SERVER + f'auth_password = "{SECRET}"\n',
        "databases.app: has auth_password but no auth_user: add the user that auth_query runs as",
    ),
    "auth_query without a place for the user": (
        "auth_query = 'SELECT 1'\n" + SERVER,
        (
            "auth_query: must have $1 where the name of the user belongs, for example SELECT rolname, CASE WHEN "
            "rolvaliduntil < pg_catalog.now() THEN NULL ELSE rolpassword END FROM pg_catalog.pg_authid WHERE "
            "rolname = $1 AND rolcanlogin"
        ),
    ),
    "a short secret for salts": (
        f'scram_mock_secret = "{SECRET[:8]}"\n' + SERVER,
        "scram_mock_secret: must have at least 16 characters, for example the output of: openssl rand -base64 24",
    ),
    "password file missing": (
        SERVER + '[users.app]\npassword_file = "nowhere"\n',
        "users.app: password_file {folder}/nowhere cannot be read: No such file or directory",
    ),
    "password file of several lines": (
        SERVER + '[users.app]\npassword_file = "secrets"\n',
        "users.app: password_file {folder}/secrets must hold the password in one line and nothing else",
    ),
    "password file empty": (
        SERVER + '[users.app]\npassword_file = "empty"\n',
        "users.app: password_file {folder}/empty must hold the password in one line and nothing else",
    ),
    "open to the network without TLS": (
        'listen_host = "0.0.0.0"\n' + SERVER,
        (
            'client_tls = "require" (the default unless listen_host is loopback) needs client_tls_cert and '
            'client_tls_key, or client_tls_secret; without TLS, set client_tls = "disable"'
        ),
    ),
    "TLS allowed in so many words": (
        'client_tls = "allow"\n' + SERVER,
        (
            'client_tls = "allow" needs client_tls_cert and client_tls_key, or client_tls_secret; '
            'without TLS, set client_tls = "disable"'
        ),
    ),
    "two certificates": (
        'client_tls_cert = "both.pem"\nclient_tls_secret = "tls"\n' + SERVER,
        "has both client_tls_cert and client_tls_secret: keep one of them",
    ),
    "a self-signed certificate for the network": (
        'listen_host = "0.0.0.0"\nclient_tls_self_signed = true\n' + SERVER,
        (
            "client_tls_self_signed is for loopback addresses only, where nobody can come between: "
            'set listen_host = "127.0.0.1", or client_tls_cert and client_tls_key'
        ),
    ),
    "client certificates that could be gone around": (
        'client_tls_cert = "both.pem"\nclient_tls_ca = "ca.pem"\n' + SERVER,
        (
            'client_tls_verify = "verify-ca" (the default with client_tls_ca is "verify-ca") needs '
            'client_tls = "require", or clients without TLS would need no certificate'
        ),
    ),
    "client certificates of nobody": (
        'client_tls_cert = "both.pem"\nclient_tls_verify = "verify-full"\n' + SERVER,
        "client_tls_verify is given without client_tls_ca: name the file of the clients' authorities",
    ),
    "key alone": (
        'client_tls_key = "server.key"\n' + SERVER,
        "client_tls_key: is given without client_tls_cert: give both or neither",
    ),
    "empty path": (
        'client_tls_cert = ""\n' + SERVER,
        "client_tls_cert: must not be empty: leave it out, or name a file",
    ),
    "certificate missing": (
        'client_tls_cert = "nowhere"\nclient_tls_key = "server.key"\n' + SERVER,
        "client_tls_cert: {folder}/nowhere cannot be read: No such file or directory",
    ),
    "not a certificate": (
        'client_tls_cert = "secrets"\nclient_tls_key = "server.key"\n' + SERVER,
        (
            "client_tls_cert: {folder}/secrets holds no certificate: "
            "it must be a PEM file with -----BEGIN CERTIFICATE-----"
        ),
    ),
    "truncated certificate": (
        'client_tls_cert = "truncated.pem"\n' + SERVER,
        (
            "client_tls_cert: {folder}/truncated.pem holds no certificate: "
            "it must be a PEM file with -----BEGIN CERTIFICATE-----"
        ),
    ),
    "key missing": (
        'client_tls_cert = "server.pem"\n' + SERVER,
        "client_tls_key: is missing, and {folder}/server.pem holds no private key either",
    ),
    "not a key": (
        'client_tls_cert = "server.pem"\nclient_tls_key = "secrets"\n' + SERVER,
        (
            "client_tls_key: {folder}/secrets holds no private key: "
            "it must be a PEM file with -----BEGIN PRIVATE KEY-----"
        ),
    ),
    "another's key": (
        'client_tls_cert = "server.pem"\nclient_tls_key = "other.key"\n' + SERVER,
        "client_tls_key: {folder}/other.key is not the key of the certificate in {folder}/server.pem",
    ),
    "key with a passphrase": (
        'client_tls_cert = "server.pem"\nclient_tls_key = "encrypted.key"\n' + SERVER,
        "client_tls_key: {folder}/encrypted.key needs a passphrase: give a key without one",
    ),
    "authorities missing": (
        SERVER + 'tls_ca = "nowhere"\n',
        "databases.app.tls_ca: {folder}/nowhere cannot be read: No such file or directory",
    ),
    "authorities that are none": (
        SERVER + 'tls_ca = "server.key"\n',
        (
            "databases.app.tls_ca: {folder}/server.key holds no certificate: "
            "it must be a PEM file with -----BEGIN CERTIFICATE-----"
        ),
    ),
    "authorities expired": (
        SERVER + 'tls_ca = "expired.pem"\n',
        ("databases.app.tls_ca: {folder}/expired.pem holds only expired certificates, the last since 2020-01-02"),
    ),
    "authorities for nothing": (
        SERVER + 'tls = "require"\ntls_ca = "ca.pem"\n',
        (
            'databases.app: has tls_ca, which tls = "require" would not use: '
            'set tls to "verify-ca" or "verify-full", or remove tls_ca'
        ),
    ),
}

# The variables, and the whole line.
ENVIRONMENT_CASES = {
    "wrong type": (
        {"TIDEGATE_LISTEN_PORT": SECRET},
        "TIDEGATE_LISTEN_PORT: must be a whole number from 0 to 65535, for example 6432",
    ),
    "not a boolean": ({"TIDEGATE_CHECK_TARGETS": "no"}, "TIDEGATE_CHECK_TARGETS: must be true or false"),
    "unknown": (
        {"TIDEGATE_LISTEN_PROT": SECRET},
        "TIDEGATE_LISTEN_PROT: unknown variable; did you mean TIDEGATE_LISTEN_PORT?",
    ),
    "unknown in a table": (
        {"TIDEGATE_USERS__APP__PASSWD": SECRET},
        "TIDEGATE_USERS__APP__PASSWD: unknown variable; did you mean TIDEGATE_USERS__APP__PASSWORD?",
    ),
    "no such table": (
        {"TIDEGATE_DATABASE__APP__HOST": SECRET},
        (
            "TIDEGATE_DATABASE__APP__HOST: unknown variable; settings are TIDEGATE_KEY, "
            "TIDEGATE_DATABASES__NAME__KEY and TIDEGATE_USERS__NAME__KEY, see docs/configuration.md"
        ),
    ),
    "malformed JSON": (
        {"TIDEGATE_USERS": f'{{"app": {SECRET}}}'},
        (
            "TIDEGATE_USERS: must be a table as JSON, but is malformed at character 9; "
            'for example TIDEGATE_USERS={"app": {"password_file": "app.password"}}'
        ),
    ),
    "JSON that is no table": (
        {"TIDEGATE_USERS": f'"{SECRET}"'},
        'TIDEGATE_USERS: must be a table as JSON, for example {"app": {…}}',
    ),
    "wrong inside JSON": (
        {"TIDEGATE_DATABASES": f'{{"My App": {{"host": "h", "port": "{SECRET}"}}}}'},
        'TIDEGATE_DATABASES: "My App".port: must be a whole number from 1 to 65535, for example 5432',
    ),
    "missing beside a variable": (
        {"TIDEGATE_DATABASES__NEW__PORT": "1"},
        ('TIDEGATE_DATABASES__NEW__HOST: is missing; it must be a non-empty string, for example "db.example.com"'),
    ),
    "two passwords": (
        {"TIDEGATE_USERS__APP__PASSWORD": SECRET, "TIDEGATE_USERS__APP__VERIFIER": verifier()},
        (
            "TIDEGATE_USERS__APP: has password and verifier: "
            "give exactly one of password, password_file, verifier and secret"
        ),
    ),
    "open to the network without TLS": (
        {"TIDEGATE_CLIENT_TLS": "require"},
        (
            '{file}: client_tls = "require" needs client_tls_cert and client_tls_key, or client_tls_secret; '
            'without TLS, set client_tls = "disable"'
        ),
    ),
}


@pytest.fixture
def folder(certificates: Certificates) -> Path:
    """The folder of the certificates, with some more bad files."""
    folder = certificates.folder
    (folder / "secrets").write_text(f"{SECRET}\n{SECRET}\n")
    (folder / "empty").write_text("\n")
    pem = (folder / "server.pem").read_text()
    (folder / "truncated.pem").write_text(pem[:200] + "\n-----END CERTIFICATE-----\n")
    (folder / "encrypted.key").write_bytes(encrypted((folder / "server.key").read_bytes()))
    return folder


def encrypted(key: bytes) -> bytes:
    from cryptography.hazmat.primitives import serialization as s

    loaded = s.load_pem_private_key(key, None)
    return loaded.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.BestAvailableEncryption(SECRET.encode()))


@pytest.mark.parametrize("case", FILE_CASES)
def test_a_bad_file_is_explained_in_one_line(load: Load, folder: Path, case: str) -> None:
    text, expected = FILE_CASES[case]
    with pytest.raises(ConfigurationError) as caught:
        load(text)
    line = str(caught.value)
    assert line == f"{folder}/tidegate.toml: {expected.replace('{folder}', str(folder))}"
    assert SECRET not in line
    hidden = caught.value.__suppress_context__ and caught.value.__cause__ is None
    assert hidden, "a traceback would show pydantic's own words, values included"


@pytest.mark.parametrize("case", ENVIRONMENT_CASES)
def test_a_bad_variable_is_explained_in_one_line(load: Load, tmp_path: Path, case: str) -> None:
    variables, expected = ENVIRONMENT_CASES[case]
    with pytest.raises(ConfigurationError) as caught:
        load(SERVER, variables)
    line = str(caught.value)
    assert line == expected.replace("{file}", f"{tmp_path}/tidegate.toml")
    assert SECRET not in line


def test_without_file_and_without_variables_it_says_what_to_do() -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(None, {})
    assert str(caught.value) == f"TIDEGATE_DATABASES: {NO_DATABASE}"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(tmp_path / "nowhere.toml", {})
    assert str(caught.value) == f"{tmp_path}/nowhere.toml: cannot be read: No such file or directory"


def test_a_folder_for_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(tmp_path, {})
    assert str(caught.value) == f"{tmp_path}: cannot be read: Is a directory"


def test_a_file_that_we_may_not_read(tmp_path: Path) -> None:
    file = tmp_path / "tidegate.toml"
    file.write_text(SERVER)
    file.chmod(0)
    tmp_path.chmod(0o755)
    program = (
        "import os\n"
        "from pathlib import Path\n"
        "from tidegate_proxy.settings import ConfigurationError, load_settings\n"
        "if os.geteuid() == 0: os.setuid(65534)\n"
        "try: load_settings(Path('tidegate.toml'), {})\n"
        "except ConfigurationError as error: print(error)\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert ran.stdout == "tidegate.toml: cannot be read: Permission denied\n", ran.stderr


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "tidegate.toml").write_bytes(b"a = 1\nb = '\xff'\n")
    with pytest.raises(ConfigurationError) as caught:
        load_settings(tmp_path / "tidegate.toml", {})
    assert str(caught.value) == f"{tmp_path}/tidegate.toml: is not UTF-8 text (line 2)"


def test_an_endless_file_is_not_read_to_its_end() -> None:
    with pytest.raises(ConfigurationError, match="is larger than 4000000 bytes"):
        load_settings(Path("/dev/zero"), {})


def test_secrets_are_masked_in_every_form_of_the_settings(load: Load) -> None:
    settings = load(
        SERVER + f'user = "u"\npassword = "{SECRET}"\n[users.a]\npassword = "{SECRET}"\n',
        {"TIDEGATE_USERS__B__VERIFIER": verifier()},
    )
    for form in (str(settings), repr(settings), settings.model_dump_json(), str(settings.model_dump())):
        assert SECRET not in form
        assert KEY_32 not in form


def test_a_line_break_in_a_file_name_stays_in_the_line() -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(Path(f"no{os.linesep}where"), {})
    assert str(caught.value) == "no\\nwhere: cannot be read: No such file or directory"
