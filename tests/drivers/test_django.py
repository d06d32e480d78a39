"""Django's ORM on psycopg 3."""

from __future__ import annotations

import decimal
from collections.abc import Callable
from typing import Any

import django
import pytest
from django.conf import settings
from django.core.management import call_command
from django.db import DatabaseError, IntegrityError, OperationalError, connection, connections, transaction
from django.db.models import F, Sum
from psycopg import IsolationLevel
from tests.drivers.endpoints import CLIENTS, ROUNDS, Endpoint, in_threads

APP = "tests.drivers.shop"

settings.configure(
    INSTALLED_APPS=[APP],
    USE_TZ=True,
    TIME_ZONE="Europe/Vienna",
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)
django.setup()

from tests.drivers.shop.models import Item, Sale  # noqa: E402  (models can be imported only now)

UseDatabase = Callable[..., None]


@pytest.fixture
def use_database() -> Any:
    """Make an endpoint Django's default database: `use_database(endpoint, CONN_MAX_AGE=60)`."""

    def forget() -> None:
        for conn in connections.all(initialized_only=True):
            conn.close()
            del connections[conn.alias]

    def use(endpoint: Endpoint, **more: Any) -> None:
        forget()
        given = endpoint.parameters
        database = {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": given["dbname"],
            "USER": given["user"],
            "PASSWORD": given["password"],
            "HOST": given["host"],
            "PORT": given["port"],
        }
        connections.settings = connections.configure_settings({"default": database | more})

    yield use
    forget()


@pytest.fixture
def migrated(use_database: UseDatabase, endpoint: Endpoint) -> Endpoint:
    """The app's tables at the current endpoint."""
    use_database(endpoint)
    call_command("migrate", verbosity=0)
    return endpoint


def test_starting_up_does_not_pin(use_database: UseDatabase, narrow_endpoint: Endpoint) -> None:
    use_database(
        narrow_endpoint, OPTIONS={"isolation_level": IsolationLevel.SERIALIZABLE, "options": "-c statement_timeout=33s"}
    )

    def work(_: int) -> tuple[Any, ...]:
        with connections["default"].cursor() as cursor:
            names = ("TimeZone", "transaction_isolation", "statement_timeout", "client_encoding")
            for _ in range(3):
                with transaction.atomic():
                    cursor.execute("SELECT " + ", ".join(["current_setting(%s)"] * len(names)), names)
                    row: tuple[Any, ...] = cursor.fetchone()
        connections["default"].close()
        return row

    assert set(in_threads(work)) == {("UTC", "serializable", "33s", "UTF8")}
    assert narrow_endpoint.pins() == []


def test_a_role_is_assumed(use_database: UseDatabase, narrow_endpoint: Endpoint) -> None:
    with narrow_endpoint.database.server.connect() as admin:
        admin.execute("CREATE ROLE actor")
        admin.execute(f"GRANT actor TO {narrow_endpoint.database.user}")
    try:
        use_database(narrow_endpoint, OPTIONS={"assume_role": "actor"})
        with connection.cursor() as cursor:
            for _ in range(2):
                cursor.execute("SELECT current_user")
                assert cursor.fetchone() == ("actor",)
        use_database(narrow_endpoint)
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_user")
            assert cursor.fetchone() == (narrow_endpoint.database.user,)
        assert narrow_endpoint.pins() == []
    finally:
        with narrow_endpoint.database.server.connect() as admin:
            admin.execute("DROP ROLE actor")


def test_migrations_forth_and_back(migrated: Endpoint) -> None:
    assert connection.introspection.table_names() == ["django_migrations", "shop_item", "shop_sale"]
    call_command("migrate", "shop", "zero", verbosity=0)
    assert connection.introspection.table_names() == ["django_migrations"]
    call_command("migrate", verbosity=0)
    call_command("makemigrations", "--check", "--dry-run", verbosity=0)
    assert migrated.pins() == []


@pytest.mark.parametrize("server_side_binding", [False, True])
def test_objects_are_created_read_updated_and_deleted(
    migrated: Endpoint, use_database: UseDatabase, server_side_binding: bool
) -> None:
    use_database(migrated, OPTIONS={"server_side_binding": server_side_binding})
    Item.objects.bulk_create(Item(name=f"item {number}", stock=number) for number in range(100))
    item = Item.objects.create(name="Größe", price=decimal.Decimal("12.34"), details={"a": [None, "☃"]})
    item.refresh_from_db()
    assert (item.price, item.details) == (decimal.Decimal("12.34"), {"a": [None, "☃"]})
    assert item.added.utcoffset() is not None
    assert Item.objects.filter(stock__gte=90).update(stock=F("stock") + 1) == 10
    assert Item.objects.aggregate(total=Sum("stock"))["total"] == 4960
    assert Item.objects.filter(details__a__1="☃").get() == item
    Sale.objects.create(item=item, client=1)
    assert item.delete()[0] == 2
    _, created = Item.objects.update_or_create(name="item 1", defaults={"stock": 7})
    assert not created
    assert migrated.pins() == []


def test_transactions_and_savepoints(migrated: Endpoint) -> None:
    done: list[str] = []
    with transaction.atomic():
        Item.objects.create(name="kept")
        transaction.on_commit(lambda: done.append("committed"))
        with pytest.raises(IntegrityError), transaction.atomic():
            Item.objects.create(name="kept")
        with transaction.atomic():
            Item.objects.create(name="dropped")
            transaction.set_rollback(True)
        assert done == []
    with transaction.atomic():
        Item.objects.all().delete()
        transaction.set_rollback(True)
    assert done == ["committed"]
    assert [item.name for item in Item.objects.all()] == ["kept"]
    assert migrated.pins() == []


def test_rows_from_a_cursor_on_the_server(migrated: Endpoint) -> None:
    Item.objects.bulk_create(Item(name=f"item {number}") for number in range(500))
    with transaction.atomic():
        assert len({item.name for item in Item.objects.iterator(chunk_size=50)}) == 500
    assert migrated.pins() == []
    # Outside of a transaction Django declares it WITH HOLD, and other queries run while it is open.
    names = set()
    for item in Item.objects.iterator(chunk_size=50):
        names.add(item.name)
        if len(names) % 100 == 0:
            assert Item.objects.count() == 500
    assert len(names) == 500
    assert Item.objects.count() == 500
    if migrated.proxy is not None:
        assert ["no longer" in line for line in migrated.pins()] == [False, True]


def test_rows_locked_for_an_update(migrated: Endpoint) -> None:
    item = Item.objects.create(name="rare", stock=1)

    def other_client(work: Callable[[], Any]) -> Any:
        return in_threads(lambda number: number or (work(), connection.close())[0])[0]

    with transaction.atomic():
        assert Item.objects.select_for_update().get(pk=item.pk).stock == 1

        def lock() -> str:
            with transaction.atomic():
                assert not Item.objects.select_for_update(skip_locked=True).exists()
            with pytest.raises(DatabaseError, match="could not obtain lock"), transaction.atomic():
                Item.objects.select_for_update(nowait=True).get(pk=item.pk)
            return "locked"

        assert other_client(lock) == "locked"
        Item.objects.update(stock=0)
    assert migrated.pins() == []


def test_connections_that_are_kept_between_requests(use_database: UseDatabase, migrated: Endpoint) -> None:
    use_database(migrated, CONN_MAX_AGE=600, CONN_HEALTH_CHECKS=True)
    Item.objects.create(name="kept")
    first = connection.connection
    connection.close_if_unusable_or_obsolete()
    assert Item.objects.count() == 1
    assert connection.connection is first, "the connection is kept from one request to the next"
    with migrated.database.server.connect() as admin:
        query = "SELECT pg_terminate_backend(pid, 20000) FROM pg_stat_activity WHERE datname = %s"
        assert {row[0] for row in admin.execute(query, [migrated.database.name])} == {True}
    connection.close_if_unusable_or_obsolete()
    assert Item.objects.count() == 1
    assert migrated.pins() == []


def test_errors_and_timeouts(migrated: Endpoint) -> None:
    with connection.cursor() as cursor:
        with pytest.raises(DatabaseError, match="division by zero"):
            cursor.execute("SELECT 1/0")
        cursor.execute("SET statement_timeout TO 400")
        with pytest.raises(OperationalError, match="statement timeout"):
            cursor.execute("SELECT pg_sleep(600)")
        cursor.execute("RESET statement_timeout")
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,)


def test_nothing_is_lost_with_twenty_clients(migrated: Endpoint) -> None:
    item = Item.objects.create(name="popular", stock=CLIENTS * ROUNDS)

    def work(client: int) -> None:
        for _ in range(ROUNDS):
            for commits in (False, True):
                with transaction.atomic():
                    locked = Item.objects.select_for_update().get(pk=item.pk)
                    locked.stock -= 1
                    locked.save()
                    Sale.objects.create(item=locked, client=client)
                    transaction.set_rollback(not commits)
        connection.close()

    in_threads(work)
    item.refresh_from_db()
    sales = Sale.objects.all()
    counted = (item.stock, sales.count(), sales.values("client").distinct().count())
    assert counted == (0, CLIENTS * ROUNDS, CLIENTS)
    assert migrated.pins() == []
