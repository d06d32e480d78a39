"""Which provider gives the credentials of which pool."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from weakref import WeakValueDictionary

from tidegate_proxy.credentials.aws import Aws
from tidegate_proxy.credentials.provider import CredentialProvider, FixedCredential
from tidegate_proxy.credentials.providers import LearnedCredential, RdsTokenCredential, SecretCredential
from tidegate_proxy.credentials.secret import Secret
from tidegate_proxy.protocol.scram import ScramKeys
from tidegate_proxy.settings import DatabaseSettings, Settings


class ServerCredentials:
    """Providers by database and user, over secrets that they share."""

    def __init__(self, settings: Settings) -> None:
        self.aws = Aws(settings.aws_region)
        self.secrets: dict[str, Secret] = {}
        """Every secret that is configured, by its name or ARN."""
        self._settings = settings
        # Kept for as long as a pool uses them.
        self._providers: WeakValueDictionary[tuple[str, str, bool], CredentialProvider] = WeakValueDictionary()
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self.secrets |= self.secrets_of(settings)

    def secrets_of(self, settings: Settings) -> dict[str, Secret]:
        """Every secret that these settings name: those that there are, and new ones, which nobody reads yet."""
        names = [name for each in settings.databases.values() for name in (each.secret, each.auth_secret)]
        names += [user.secret for user in settings.users.values()]
        return {
            name: self.secrets.get(name) or Secret(name, self.aws, settings.secret_refresh)
            for name in dict.fromkeys(names)
            if name is not None
        }

    def start(self) -> None:
        """Begin to read the secrets, and read them again on schedule."""
        for name, secret in self.secrets.items():
            if name not in self._watchers:
                self._watchers[name] = asyncio.create_task(secret.watch())

    def follow(self, settings: Settings, secrets: dict[str, Secret]) -> None:
        """Give what these settings say from now on. Secrets that are no longer named are still read.

        Parameters: `secrets`, from `secrets_of`.
        """
        self._settings = settings
        self.secrets |= secrets
        self.start()

    def forget(self, changed: Callable[[str, str], bool]) -> None:
        """Whoever asks for credentials from now on gets those of the present settings.

        Parameters: `changed`, says for a database and a user, as clients name them, whether they are others now.
        """
        for database, user, looks_up in list(self._providers):
            if changed(database, user):
                self._providers.pop((database, user, looks_up), None)

    async def close(self) -> None:
        """Stop reading."""
        for task in self._watchers.values():
            task.cancel()
        if self._watchers:
            await asyncio.wait(self._watchers.values())
        self.aws.close()

    def of_pool(
        self, database: str, target: DatabaseSettings, user: str, brought: CredentialProvider | None = None
    ) -> CredentialProvider:
        """What a pool logs in to its servers with.

        Parameters: `database` and `user`, as the client named them; `target`, the database's settings; `brought`, what
        clients bring along, for want of anything else.
        """
        key = (database, user, False)
        provider = self._providers.get(key)
        if provider is None:
            provider = self._providers[key] = self._pool_provider(target, user) or brought or LearnedCredential(user)
        return provider

    def of_auth_user(self, database: str, target: DatabaseSettings) -> CredentialProvider:
        """What the connection for `auth_query` logs in with; the target has an `auth_user`."""
        assert target.auth_user is not None
        key = (database, target.auth_user, True)
        provider = self._providers.get(key)
        if provider is None:
            provider = self._providers[key] = self._auth_provider(target, target.auth_user)
        return provider

    def learn(self, database: str, user: str, shown: str | ScramKeys) -> None:
        """A client of this pool has logged in, and has shown what may let the proxy in on the server too."""
        provider = self._providers.get((database, user, False))
        if isinstance(provider, LearnedCredential):
            provider.learn(shown)

    def _pool_provider(self, target: DatabaseSettings, user: str) -> CredentialProvider | None:
        if target.server_auth == "iam":
            return RdsTokenCredential(target.user or user, self.aws)
        if target.secret is not None:
            return SecretCredential(self.secrets[target.secret], target.user)
        if target.user is not None:
            return FixedCredential(target.user, target.password.get_secret_value() if target.password else None)
        own = self._settings.users.get(user)
        if own is not None and own.secret is not None:
            return SecretCredential(self.secrets[own.secret], user)
        if own is not None and own.password is not None:
            return FixedCredential(user, own.password.get_secret_value())
        return None

    def _auth_provider(self, target: DatabaseSettings, user: str) -> CredentialProvider:
        if target.auth_secret is not None:
            return SecretCredential(self.secrets[target.auth_secret], user)
        if target.auth_password is None and target.server_auth == "iam":
            return RdsTokenCredential(user, self.aws)
        return FixedCredential(user, target.auth_password.get_secret_value() if target.auth_password else None)
