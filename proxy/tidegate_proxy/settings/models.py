"""The settings themselves. Each field's docstring is its entry in docs/configuration.md."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationInfo, field_validator, model_validator

from tidegate_proxy.settings.aws import RegionName, SecretName
from tidegate_proxy.settings.certificates import check_authorities, check_certificate, check_key, or_rds
from tidegate_proxy.settings.clusters import ClusterSettings, TargetSettings
from tidegate_proxy.settings.fleet import FleetSettings
from tidegate_proxy.settings.iam import IamSettings
from tidegate_proxy.settings.operation import OperationSettings
from tidegate_proxy.settings.readers import with_readers
from tidegate_proxy.settings.sizes import DatabaseSizes, Sizes, Timeouts, UserSizes
from tidegate_proxy.settings.values import (
    File,
    Flag,
    Host,
    ListenHosts,
    Name,
    Password,
    Seconds,
    SecondsOrZero,
    Verifier,
    is_loopback,
    password_from,
)
from tidegate_proxy.targets.endpoint import Endpoint

DEFAULT_AUTH_QUERY = (
    "SELECT rolname, CASE WHEN rolvaliduntil < pg_catalog.now() THEN NULL ELSE rolpassword END "
    "FROM pg_catalog.pg_authid WHERE rolname = $1 AND rolcanlogin"
)


def _auth_query(text: str) -> str:
    if "$1" not in text or "\0" in text:
        raise ValueError("must have $1 where the name of the user belongs, for example " + DEFAULT_AUTH_QUERY)
    return text


def _mock_secret(value: SecretStr) -> SecretStr:
    if len(value.get_secret_value()) < 16:
        raise ValueError("must have at least 16 characters, for example the output of: openssl rand -base64 24")
    return value


PoolMode = Literal["transaction", "session", "statement"]


class DatabaseSettings(DatabaseSizes, ClusterSettings, frozen=True):
    """One database that clients may name, and the PostgreSQL server it lives on."""

    host: Host
    """Host name or IP address of the PostgreSQL server. Example: `"db.example.com"`."""

    port: Annotated[int, Field(strict=True, ge=1, le=65_535)] = 5432
    """TCP port of the PostgreSQL server."""

    dbname: Name | None = None
    """Name of the database on the server. Default: the name of this table; for `"*"`, the name that the
    client asked for."""

    user: Name | None = None
    """Log in to the server as this user, whoever the client is. Default: the client's own user name and
    password."""

    password: Password | None = None
    """Password of `user` on the server. Only together with `user`."""

    password_file: File | None = None
    """File with the password of `user` in its only line, in place of `password`."""

    secret: SecretName | None = None
    """Secret of Secrets Manager, by ARN or name, that holds user and password for the server, in the shape that RDS
    gives it: `{"username": "app", "password": "..."}`. A rotation is followed without a restart and without
    disconnecting anyone; see docs/identity.md. Give `user` only if the secret has no `username`."""

    server_auth: Literal["password", "secret", "iam"] | None = None
    """How the proxy logs in to the server: with a password, with the `secret`, or with an RDS IAM token that it signs
    for each new connection with its own AWS role, which needs `rds-db:connect` for `user` (or for every client's user
    where there is none). `iam` needs TLS. Default: `secret` where there is one, else `password`."""

    auth_user: Name | None = None
    """Clients that have no entry in `users` are looked up in the database itself, by `auth_query`, for which the proxy
    logs in as this user. Its password is in `auth_password`, `auth_password_file` or `auth_secret`; with none of them
    it is an IAM token where `server_auth` is `iam`, else none at all."""

    auth_password: Password | None = None
    """Password of `auth_user` on the server."""

    auth_password_file: File | None = None
    """File with the password of `auth_user` in its only line."""

    auth_secret: SecretName | None = None
    """Secret of Secrets Manager with the password of `auth_user`, in the same shape as `secret`."""

    auth_dbname: Name | None = None
    """Name of the database on the server in which `auth_query` runs. Default: `dbname`."""

    pool_mode: PoolMode | None = None
    """Default: the general `pool_mode`; a user's own comes first."""

    tls: Literal["disable", "prefer", "require", "verify-ca", "verify-full"] = "verify-full"
    """TLS towards the server: `disable` never; `prefer` only if the server has it; `require` encrypts but verifies
    nothing; `verify-ca` verifies the certificate's chain; `verify-full` also its host name."""

    tls_ca: Annotated[File, BeforeValidator(or_rds), AfterValidator(check_authorities)] | None = None
    """PEM file with the authorities that the server's certificate may come from, for `verify-ca` and
    `verify-full`; `"rds"` is Amazon RDS's, which come with the proxy. Default: `"rds"` where `host` ends in
    `.rds.amazonaws.com` and is no RDS Proxy, else the system's."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.password is not None and self.password_file is not None:
            raise ValueError("has both password and password_file: keep one of them")
        if (self.password or self.password_file) and self.user is None:
            raise ValueError("has a password but no user: add the user that it belongs to")
        if self.tls_ca is not None and self.tls in ("disable", "prefer", "require"):
            raise ValueError(
                f'has tls_ca, which tls = "{self.tls}" would not use: '
                'set tls to "verify-ca" or "verify-full", or remove tls_ca'
            )
        self._check_server_auth()
        self._check_auth_user()
        if self.password_file is not None:
            # The object is frozen for everyone else; this is still its construction.
            object.__setattr__(self, "password", password_from(self.password_file))
        if self.auth_password_file is not None:
            object.__setattr__(self, "auth_password", password_from(self.auth_password_file))
        return self

    @property
    def on_this_machine(self) -> bool:
        """Whether all of its servers are at loopback addresses."""
        hosts = [self.host, *(Endpoint.parse(text, self.port).host for text in self.endpoints)]
        return all(is_loopback(host) for host in hosts)

    def _check_server_auth(self) -> None:
        password = "password" if self.password else "password_file" if self.password_file else None
        way = self.server_auth or ("secret" if self.secret else "password")
        if way != "password" and password is not None:
            by = "secret" if self.secret else f'server_auth = "{way}"'
            raise ValueError(f"has both {password} and {by}: keep one of them")
        if way == "secret" and self.secret is None:
            raise ValueError('has server_auth = "secret" but no secret: add its ARN')
        if way != "secret" and self.secret is not None:
            raise ValueError(f'has both secret and server_auth = "{way}": keep one of them')
        if way == "iam" and self.tls in ("disable", "prefer"):
            raise ValueError(f'has server_auth = "iam", for which RDS demands TLS: remove tls = "{self.tls}"')
        object.__setattr__(self, "server_auth", way)

    def _check_auth_user(self) -> None:
        ways = [name for name in ("auth_password", "auth_password_file", "auth_secret") if getattr(self, name)]
        if len(ways) > 1:
            raise ValueError(f"has {' and '.join(ways)}: keep one of them")
        if self.auth_user is None and (ways or self.auth_dbname):
            raise ValueError(
                f"has {(ways or ['auth_dbname'])[0]} but no auth_user: add the user that auth_query runs as"
            )


class UserSettings(UserSizes, frozen=True):
    """One user that clients may log in as, with exactly one of the four ways to know the password."""

    password: Password | None = None
    """The password. The proxy also uses it to log in to servers for which the database names no `user`."""

    password_file: File | None = None
    """File with the password in its only line."""

    verifier: Verifier | None = None
    """What PostgreSQL keeps in `pg_authid.rolpassword`: `SCRAM-SHA-256$iterations:salt$stored:server`. The
    proxy then knows no password to log in to a server with. It can log in with the key that it learns from a client's
    own login if the server keeps the very same verifier; otherwise the database must name a `user`."""

    secret: SecretName | None = None
    """Secret of Secrets Manager, by ARN or name, that holds the password, in the shape that RDS gives it:
    `{"username": "app", "password": "..."}`. The proxy also uses it to log in to servers for which the database names
    no `user`."""

    pool_mode: PoolMode | None = None
    """Default: the database's `pool_mode`, else the general one."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        ways = ("password", "password_file", "verifier", "secret")
        given = [name for name in ways if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"has {' and '.join(given) or 'no password'}: give exactly one of password, password_file, verifier "
                "and secret"
            )
        if self.password_file is not None:
            # The object is frozen for everyone else; this is still its construction.
            object.__setattr__(self, "password", password_from(self.password_file))
        return self


def _default_client_tls(validated: dict[str, Any]) -> Literal["allow", "require"]:
    return "allow" if is_loopback(validated.get("listen_host", "")) else "require"


class Settings(Sizes, Timeouts, TargetSettings, FleetSettings, OperationSettings, frozen=True):
    """Everything that the proxy can be told. Frozen; durations are seconds."""

    listen_host: ListenHosts = "127.0.0.1"
    """Host name or IP address to listen on, or several separated by commas; `"0.0.0.0"` is every IPv4 address of the
    machine. Empty: only on the Unix socket."""

    listen_port: Annotated[int, Field(strict=True, ge=0, le=65_535)] = 6432
    """TCP port to listen on; 0 takes any free port. Also part of the Unix socket's name."""

    unix_socket_dir: File | None = None
    """Directory for a Unix socket, named `.s.PGSQL.` and the port as PostgreSQL's are. Over it there is no TLS; and the
    user who runs the proxy may use the admin console without a password, as user `pgbouncer`. Default: none."""

    unix_socket_mode: Annotated[str, Field(pattern=r"^0?[0-7]{3}$")] = "0777"
    """Who may connect to the Unix socket: its file mode, in octal. By default everybody who has a password, as with
    PostgreSQL."""

    unix_socket_group: Name | None = None
    """Group of the Unix socket's file. Default: that of the process."""

    unix_socket_auth: Literal["password", "peer"] = "password"
    """How clients of the Unix socket prove who they are: as over TCP, or `peer`, by being the operating system's user
    of the same name, who needs an entry in `users` too."""

    pool_mode: PoolMode = "transaction"
    """How long a client keeps a server connection: `transaction`; `session`, until it disconnects; `statement`,
    which refuses transaction blocks."""

    session_check: Literal["suspect", "always"] = "suspect"
    """When to ask the server what a client has left in its session: after statements that look as if they changed
    it, or after every transaction, which also finds what functions do inside and costs a small query each time."""

    client_tls: Literal["disable", "allow", "require"] = Field(default_factory=_default_client_tls)
    """TLS towards clients: `disable` refuses it; `allow` leaves it to the client; `require` refuses clients
    without it. Default: `require`, but `allow` where `listen_host` is a loopback address; only that default
    works without a certificate, and then means `disable`."""

    client_tls_cert: Annotated[File, AfterValidator(check_certificate)] | None = None
    """PEM file with the proxy's certificate, followed by its intermediate certificates."""

    client_tls_secret: SecretName | None = None
    """Name or ARN of a secret of AWS Secrets Manager with certificate and key, in place of `client_tls_cert`: JSON
    with `certificate`, `private_key` and, if there are intermediate certificates, `certificate_chain`; or all of it
    as PEM text."""

    client_tls_self_signed: Flag = False
    """Make a self-signed certificate at each start, in place of `client_tls_cert`, to try TLS locally. Only where
    `listen_host` is a loopback address."""

    client_tls_refresh: Seconds = 60
    """How often to look whether the certificate's files or secret, or `client_tls_ca`, have changed. Sessions are not
    affected. SIGHUP looks at once."""

    client_tls_ca: Annotated[File, AfterValidator(check_authorities)] | None = None
    """PEM file with the authorities that clients' own certificates may come from. Without it clients are not asked for
    certificates."""

    client_tls_verify: Literal["optional", "verify-ca", "verify-full"] = "verify-ca"
    """What `client_tls_ca` demands of clients, beside their password: `optional` verifies the certificates of those who
    have one; `verify-ca` refuses clients without; `verify-full` also those whose certificate's common name is not
    their user name. The last two are `clientcert` in PostgreSQL's pg_hba.conf."""

    client_tls_key: File | None = None
    """PEM file with the private key of `client_tls_cert`, without a passphrase. Default: in the certificate's
    file."""

    client_auth: Literal["scram-sha-256", "password"] = "scram-sha-256"
    """How clients prove who they are: by SCRAM-SHA-256, or with their password as it is, for clients that cannot do
    SCRAM and only inside TLS."""

    auth_query: Annotated[str, AfterValidator(_auth_query)] = DEFAULT_AUTH_QUERY
    """What is asked about a client without an entry in `users`, on databases with an `auth_user`. `$1` stands for the
    client's user name. A user is a row whose last column is the SCRAM-SHA-256 verifier, as in `pg_authid.rolpassword`;
    no row, or NULL, is nobody. It runs with the search_path `pg_catalog` alone, so other schemas must be named."""

    auth_query_cache: SecondsOrZero = 10
    """How long the answer of `auth_query` is used again. A changed password is seen sooner: a failed login has the user
    looked up anew. 0 asks for every login."""

    aws_region: RegionName | None = None
    """AWS region of secrets that are given by name, and of IAM tokens for servers whose name does not tell it. Default:
    AWS's usual configuration, such as the variable `AWS_REGION`."""

    secret_refresh: Seconds = 300
    """How often secrets are read again. A rotation is seen sooner: when a server or a client has another password, the
    secret is read at once."""

    failed_logins_per_minute: Annotated[int, Field(strict=True, ge=0, le=1_000_000)] = 60
    """How many failed logins a minute one source address may have as one user; all that come after fail too, whatever
    their password, until some seconds have passed. As all users together it may have ten times as many. Other addresses
    notice nothing, and neither do clients that are logged in. It is as high as this because functions of one subnet
    share addresses. 0 is no limit; take that behind a load balancer which does not preserve clients' addresses."""

    scram_mock_secret: Annotated[Password, AfterValidator(_mock_secret)] | None = None
    """Text from which the proxy makes the salts that it shows to users that do not exist, at least 16 characters. Give
    the same to all proxies behind one address: else a user whose salt changes from proxy to proxy is one that does not
    exist. Default: random, the same for all `workers` of one proxy."""

    check_targets: Flag = True
    """Whether `serve` refuses to start when a configured server can't be reached."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severity that is logged, on standard error."""

    log_format: Literal["text", "json"] = "text"
    """One line of text, or one JSON object, for each record."""

    databases: Annotated[Mapping[Name, DatabaseSettings], Field(min_length=1)]
    """The databases, by the name that clients use; `"*"` stands for every other name. At least one."""

    users: Mapping[Name, UserSettings] = Field(default_factory=dict)
    """The users that may log in, by name."""

    iam: IamSettings | None = None
    """Clients that log in with AWS credentials; see docs/identity.md."""

    @field_validator("databases", mode="before")
    @classmethod
    def _fill_in_readers(cls, databases: Any) -> Any:
        return with_readers(databases, DatabaseSettings.model_fields, {*DatabaseSizes.model_fields, "reader_fallback"})

    @field_validator("databases")
    @classmethod
    def _users_of_any_database(cls, databases: Mapping[str, DatabaseSettings]) -> Mapping[str, DatabaseSettings]:
        every = databases.get("*")
        if every is not None and every.auth_user is not None and not (every.auth_dbname or every.dbname):
            raise ValueError(
                'has auth_user for "*", but no database in which auth_query runs: add auth_dbname, for example '
                'auth_dbname = "postgres"'
            )
        return databases

    @field_validator("databases")
    @classmethod
    def _name_databases(cls, databases: Mapping[str, DatabaseSettings]) -> dict[str, DatabaseSettings]:
        return {
            name: database
            if database.dbname is not None or name == "*"
            else database.model_copy(update={"dbname": name})
            for name, database in databases.items()
        }

    @field_validator("client_tls_key")
    @classmethod
    def _key_matches(cls, key: Path | None, info: ValidationInfo) -> Path | None:
        certificate = info.data.get("client_tls_cert")
        if certificate is not None:
            check_key(certificate, key)
        elif key is not None and "client_tls_cert" in info.data:  # a certificate that was refused is not there
            raise ValueError("is given without client_tls_cert: give both or neither")
        return key

    @model_validator(mode="after")
    def _one_certificate(self) -> Self:
        ways = ("client_tls_cert", "client_tls_secret", "client_tls_self_signed")
        given = [name for name in ways if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(f"has both {given[0]} and {given[1]}: keep one of them")
        if self.client_tls_self_signed and not is_loopback(self.listen_host):
            raise ValueError(
                "client_tls_self_signed is for loopback addresses only, where nobody can come between: "
                'set listen_host = "127.0.0.1", or client_tls_cert and client_tls_key'
            )
        return self

    @model_validator(mode="after")
    def _client_certificates(self) -> Self:
        if self.client_tls_ca is None:
            if "client_tls_verify" in self.model_fields_set:
                raise ValueError(
                    "client_tls_verify is given without client_tls_ca: name the file of the clients' authorities"
                )
        elif self.client_tls_verify != "optional" and self.client_tls != "require":
            raise ValueError(
                f'client_tls_verify = "{self.client_tls_verify}" (the default with client_tls_ca is "verify-ca") needs '
                'client_tls = "require", or clients without TLS would need no certificate'
            )
        return self

    @model_validator(mode="after")
    def _somewhere_to_listen(self) -> Self:
        if not self.listen_host and self.unix_socket_dir is None:
            raise ValueError("listen_host is empty and there is no unix_socket_dir: give one of them")
        return self

    @model_validator(mode="after")
    def _certificate_where_needed(self) -> Self:
        chosen = "client_tls" in self.model_fields_set
        needed = self.client_tls == "require" or (self.client_tls == "allow" and chosen)
        if needed and not (self.client_tls_cert or self.client_tls_secret or self.client_tls_self_signed):
            why = "" if chosen else " (the default unless listen_host is loopback)"
            raise ValueError(
                f'client_tls = "{self.client_tls}"{why} needs client_tls_cert and client_tls_key, or '
                'client_tls_secret; without TLS, set client_tls = "disable"'
            )
        return self

    @model_validator(mode="after")
    def _tokens_inside_tls(self) -> Self:
        certificate = self.client_tls_cert or self.client_tls_secret or self.client_tls_self_signed
        if self.iam is not None and (self.client_tls == "disable" or not certificate):
            raise ValueError(
                "iam needs TLS towards clients, since whoever reads a token on its way can use it: "
                "give client_tls_cert and client_tls_key, or client_tls_secret"
            )
        return self

    @model_validator(mode="after")
    def _rds_tokens_are_judged_by_the_server(self) -> Self:
        if self.iam is not None and self.iam.rds_users:
            for name, database in self.databases.items():
                if database.tls in ("disable", "prefer", "require") and not database.on_this_machine:
                    raise ValueError(
                        f"iam.rds_users needs a server that proves who it is, since its word lets clients in: set "
                        f'databases.{name}.tls to "verify-full", which is the default, in place of "{database.tls}"'
                    )
        return self

    @model_validator(mode="after")
    def _console_users_are_users(self) -> Self:
        by_token = self.iam.users if self.iam is not None else ()
        for setting in ("admin_users", "stats_users"):
            for name in getattr(self, setting):
                if name not in self.users and name not in by_token:
                    raise ValueError(f'{setting} names "{name}", who has no entry in users: add users.{name}')
        return self

    @property
    def tokens_only(self) -> bool:
        """Whether nobody can log in but by a token."""
        looked_up = any(database.auth_user is not None for database in self.databases.values())
        return self.iam is not None and not looked_up and self.iam.users.issuperset(self.users)

    def database(self, name: str) -> DatabaseSettings | None:
        """The settings of the database that a client named.

        Parameters: `name`, as in the client's StartupMessage.
        Returns: the entry of that name; else the wildcard's, with `name` as `dbname` unless it sets one;
        else None.
        """
        wildcard = self.databases.get("*")
        if name != "*" and name in self.databases:
            return self.databases[name]
        if wildcard is None or wildcard.dbname is not None:
            return wildcard
        return wildcard.model_copy(update={"dbname": name})

    def pool_mode_of(self, database: str, user: str) -> PoolMode:
        """The pool mode for a client: its user's, else its database's, else the general one."""
        own = self.users.get(user)
        target = self.database(database)
        return (own and own.pool_mode) or (target and target.pool_mode) or self.pool_mode
