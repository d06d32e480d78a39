"""From PgBouncer's files to the tables that our own file would have."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tidegate_proxy.settings.errors import ConfigurationError, dotted, nearest
from tidegate_proxy.settings.pgbouncer.files import Sections, find, parse_connection_string, read_ini, read_users
from tidegate_proxy.settings.pgbouncer.keys import (
    DATABASE_WITHOUT_EFFECT,
    DEFAULTS,
    GENERAL,
    OF_DATABASE,
    OF_USER,
    PLACED,
    SESSION,
    WITHOUT_EFFECT,
)

_EVERYWHERE = "0.0.0.0,::"


def translate(file: Path) -> tuple[dict[str, Any], list[str]]:
    """Read PgBouncer's ini file with all that it names.

    Returns: the same as a table of our settings, with PgBouncer's defaults where it says nothing; and warnings: of
    what has no effect here, and of what is different.
    Raises: ConfigurationError in one line without any secret.
    """
    try:
        sections = read_ini(file)
        return _Translation(file, sections).result()
    except OSError as error:
        raise ConfigurationError(f"{error.filename or file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{file}: is not UTF-8 text") from None
    except ValueError as error:
        raise ConfigurationError(str(error)) from None


class _Translation:
    def __init__(self, file: Path, sections: Sections) -> None:
        self._file = file
        self._general = sections.get("pgbouncer", {})
        self._databases = sections.get("databases", {})
        self._users = sections.get("users", {})
        self._ignored: list[str] = ["peers"] if sections.get("peers") else []
        self._warnings: list[str] = []
        self._data: dict[str, Any] = dict(DEFAULTS)
        unknown = [name for name in sections if name not in ("pgbouncer", "databases", "users", "peers")]
        if unknown:
            raise ConfigurationError(f"{file}: unknown section [{unknown[0]}]")
        auth_file = self._general.get("auth_file")
        self._passwords = read_users(find(auth_file, file.parent)) if auth_file else {}

    def result(self) -> tuple[dict[str, Any], list[str]]:
        self._translate_general()
        self._translate_tls()
        self._translate_authentication()
        self._data["databases"] = {name: self._database(name, text) for name, text in self._databases.items()}
        self._data["users"] = self._translate_users()
        self._console_users()
        if self._ignored:
            named = ", ".join(dict.fromkeys(self._ignored))
            self._warnings.insert(0, f"{self._file}: these have no effect here: {named}")
        return self._data, self._warnings

    def _warn(self, sentence: str) -> None:
        self._warnings.append(f"{self._file}: {sentence}")

    def _convert(self, subject: str, table: Mapping[str, tuple[str, Any]], key: str, text: str) -> tuple[str, Any]:
        name, convert = table[key]
        try:
            return name, convert(text)
        except ValueError:
            raise ConfigurationError(f"{self._file}: {subject}: must be a number") from None

    def _translate_general(self) -> None:
        known = {*GENERAL, *PLACED, *WITHOUT_EFFECT}
        for key, text in self._general.items():
            if key not in known:
                raise ConfigurationError(f"{self._file}: {dotted((key,))}: unknown parameter; {nearest(key, known)}")
            if key in WITHOUT_EFFECT:
                self._ignored.append(key)
            elif key in GENERAL and text:
                name, value = self._convert(key, GENERAL, key, text)
                self._data[name] = value
        addresses = self._general.get("listen_addr", "").replace(" ", "")
        self._data["listen_host"] = _EVERYWHERE if addresses == "*" else addresses
        folder = self._general.get("unix_socket_dir", self._data["unix_socket_dir"])
        if folder.startswith("@"):
            self._warn("unix_socket_dir: sockets in the abstract namespace are not supported: there is none")
            folder = ""
        self._data["unix_socket_dir"] = folder or None
        if self._general.get("verbose", "0") != "0":
            self._data["log_level"] = "debug"

    def _translate_tls(self) -> None:
        general, data = self._general, self._data
        mode = general.get("client_tls_sslmode", "disable")
        if mode != "disable":
            data["client_tls"] = "allow" if mode in ("allow", "prefer") else "require"
            for key, name in (("client_tls_cert_file", "client_tls_cert"), ("client_tls_key_file", "client_tls_key")):
                if general.get(key):
                    data[name] = str(find(general[key], self._file.parent))
            if mode.startswith("verify-") and general.get("client_tls_ca_file"):
                data["client_tls_ca"] = str(find(general["client_tls_ca_file"], self._file.parent))
        self._server_tls: dict[str, Any] = {"tls": general.get("server_tls_sslmode", "prefer")}
        if self._server_tls["tls"] == "allow":
            self._server_tls["tls"] = "prefer"
        if self._server_tls["tls"].startswith("verify-") and general.get("server_tls_ca_file"):
            self._server_tls["tls_ca"] = str(find(general["server_tls_ca_file"], self._file.parent))

    def _translate_authentication(self) -> None:
        kind = self._general.get("auth_type", "md5")
        if kind == "plain":
            self._data["client_auth"] = "password"
            self._warn("auth_type: cleartext passwords are taken inside TLS only")
        elif kind not in ("md5", "scram-sha-256"):
            self._warn(
                f'auth_type: "{kind}" is not supported: '
                "clients log in with SCRAM-SHA-256, by what auth_file or auth_query have"
            )

    def _database(self, name: str, text: str) -> dict[str, Any]:
        subject = dotted(("databases", name))
        try:
            pairs = parse_connection_string(text)
        except ValueError as error:
            raise ConfigurationError(f"{self._file}: {subject}: {error}") from None
        hosts = [host.strip() for host in pairs.pop("host", "").split(",")]
        if not hosts[0] or hosts[0][0] in "/@":
            self._warn(f"{subject}: servers are connected to by TCP, here 127.0.0.1, not by a Unix socket")
            hosts[0] = "127.0.0.1"
        if len(hosts) > 1:
            self._warn(f"{subject}: only the first of several hosts is used")
        table: dict[str, Any] = {"host": hosts[0], **self._server_tls}
        session = []
        for key, value in pairs.items():
            if key in OF_DATABASE:
                field, converted = self._convert(f"{subject}.{key}", OF_DATABASE, key, value)
                table[field] = converted
            elif key in SESSION:
                session.append(f"SET {key} TO '{value.replace(chr(39), chr(39) * 2)}'")
            elif key in DATABASE_WITHOUT_EFFECT:
                self._ignored.append(f"{subject}.{key}")
            elif key != "connect_query":
                known = {*OF_DATABASE, *SESSION, *DATABASE_WITHOUT_EFFECT, "host", "connect_query"}
                raise ConfigurationError(f"{self._file}: {subject}.{key}: unknown parameter; {nearest(key, known)}")
        queries = [*session, *filter(None, [pairs.get("connect_query")])]
        if queries:
            table["init_query"] = "; ".join(queries)
        self._passwords_of(table)
        return table

    def _passwords_of(self, table: dict[str, Any]) -> None:
        if "user" in table and "password" not in table and (password := self._plain(table["user"])):
            table["password"] = password
        auth_user = table.get("auth_user") or self._general.get("auth_user")
        if auth_user:
            table["auth_user"] = auth_user
            if password := self._plain(auth_user):
                table["auth_password"] = password
            if (dbname := table.get("auth_dbname") or self._general.get("auth_dbname")) is not None:
                # There it is the name of an entry, here a database of the same server.
                table["auth_dbname"] = parse_connection_string(self._databases.get(dbname, "")).get("dbname", dbname)

    def _plain(self, user: str) -> str | None:
        password = self._passwords.get(user, "")
        return None if not password or _is_md5(password) or password.startswith("SCRAM-SHA-256$") else password

    def _translate_users(self) -> dict[str, dict[str, Any]]:
        users: dict[str, dict[str, Any]] = {}
        hashed = []
        for name, password in self._passwords.items():
            if _is_md5(password):
                hashed.append(name)
            elif password.startswith("SCRAM-SHA-256$"):
                users[name] = {"verifier": password}
            elif password:
                users[name] = {"password": password}
        if hashed:
            self._warn(
                f"auth_file: an MD5 hash is of no use for SCRAM-SHA-256, so these cannot log in: {', '.join(hashed)}; "
                "give their passwords there, or SCRAM secrets as PostgreSQL has them (rolpassword in pg_authid, "
                "after each password was set anew with password_encryption = 'scram-sha-256')"
            )
        for name, text in self._users.items():
            subject = dotted(("users", name))
            table = {}
            for key, value in parse_connection_string(text).items():
                if key not in OF_USER:
                    raise ConfigurationError(
                        f"{self._file}: {subject}.{key}: unknown parameter; {nearest(key, OF_USER)}"
                    )
                field, converted = self._convert(f"{subject}.{key}", OF_USER, key, value)
                table[field] = converted
            if name in users:
                users[name] |= table
            else:
                self._ignored.append(f"{subject} (no password in auth_file)")
        return users

    def _console_users(self) -> None:
        for key in ("admin_users", "stats_users"):
            given = self._data.get(key, ())
            # Whoever runs the proxy is let in as `pgbouncer` by the Unix socket in any case.
            missing = [name for name in given if name not in self._data["users"] and name != "pgbouncer"]
            if missing:
                self._warn(f"{key}: no password is known of {', '.join(missing)}")
            if key in self._data:
                self._data[key] = tuple(name for name in given if name in self._data["users"])


def _is_md5(password: str) -> bool:
    return len(password) == 35 and password.startswith("md5") and all(c in "0123456789abcdef" for c in password[3:])
