"""Later additions, with an index that is built outside of any transaction."""

from __future__ import annotations

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):  # type: ignore[misc]
    """Adds columns, fills one of them, and adds an index concurrently."""

    atomic = False
    dependencies = (("shop", "0001_initial"),)
    operations = (
        migrations.AddField("item", "price", models.DecimalField(max_digits=10, decimal_places=2, default=0)),
        migrations.AddField("item", "details", models.JSONField(default=dict)),
        migrations.RunSQL("UPDATE shop_item SET price = 1", migrations.RunSQL.noop),
        AddIndexConcurrently("sale", models.Index(fields=["client"], name="sale_client")),
    )
