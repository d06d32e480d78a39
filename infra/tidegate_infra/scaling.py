"""How many tasks: by CPU and by client connections, quickly more and slowly fewer."""

from __future__ import annotations

from dataclasses import dataclass

from aws_cdk import Duration
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_ecs as ecs


@dataclass(frozen=True)
class Scaling:
    """When tasks are added and removed.

    A spike is first absorbed by the proxy's queue: 500 clients at once are no reason for a second task, and a new one
    comes after a minute or two anyway. Hence targets that leave room (CPU) or that only a lasting crowd reaches
    (connections). Every change of the number of tasks also divides the database's connections anew, so tasks go one
    quarter of an hour after they are no longer needed, not at once.

    Fields: `cpu_percent` of a task, on average; `clients_per_task`, connections, by default 4,000, well below the
    10,000 that one task accepts; `scale_out_cooldown`, `scale_in_cooldown`.
    """

    cpu_percent: float = 60
    clients_per_task: float = 4_000
    scale_out_cooldown: Duration = Duration.minutes(2)  # noqa: RUF009 (cannot be changed)
    scale_in_cooldown: Duration = Duration.minutes(15)  # noqa: RUF009


def add_scaling(
    service: ecs.FargateService,
    *,
    min_tasks: int,
    max_tasks: int,
    scaling: Scaling,
    clients_per_process: cloudwatch.IMetric,
    processes: int,
) -> ecs.ScalableTaskCount:
    """Target tracking on both. The one that wants more tasks wins; fewer only when both agree.

    Parameters: `clients_per_process`, the metric: an average over all processes, each of which counts its own;
    `processes` of a task.
    """
    count = service.auto_scale_task_count(min_capacity=min_tasks, max_capacity=max_tasks)
    count.scale_on_cpu_utilization(
        "Cpu",
        target_utilization_percent=scaling.cpu_percent,
        scale_out_cooldown=scaling.scale_out_cooldown,
        scale_in_cooldown=scaling.scale_in_cooldown,
    )
    count.scale_to_track_custom_metric(
        "Clients",
        metric=clients_per_process,
        target_value=scaling.clients_per_task / processes,
        scale_out_cooldown=scaling.scale_out_cooldown,
        scale_in_cooldown=scaling.scale_in_cooldown,
    )
    return count
