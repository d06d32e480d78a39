"""What the shop sells."""

from __future__ import annotations

from typing import Any

from django.db import models


class Item(models.Model):  # type: ignore[misc]
    """An article and its stock."""

    name: Any = models.CharField(max_length=50, unique=True)
    stock: Any = models.IntegerField(default=0)
    price: Any = models.DecimalField(max_digits=10, decimal_places=2, default=0)
    added: Any = models.DateTimeField(auto_now_add=True)
    details: Any = models.JSONField(default=dict)

    class Meta:
        app_label = "shop"


class Sale(models.Model):  # type: ignore[misc]
    """One piece sold."""

    item: Any = models.ForeignKey(Item, on_delete=models.CASCADE, related_name="sales")
    client: Any = models.IntegerField()

    class Meta:
        app_label = "shop"
        indexes = (models.Index(fields=["client"], name="sale_client"),)
