"""The alarms as constructs."""

from __future__ import annotations

from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sns_subscriptions as subscriptions
from constructs import Construct

from tidegate_infra.alarms.platform_rules import platform_rules
from tidegate_infra.alarms.proxy_rules import proxy_rules
from tidegate_infra.alarms.rule import Rule
from tidegate_infra.alarms.thresholds import Thresholds
from tidegate_infra.alarms.topic import alarm_topic
from tidegate_infra.proxy import TidegateProxy

RUNBOOK = "docs/runbook"


class TidegateAlarms(Construct):
    """Every alarm that the proxy should have, and the topic that they are sent to.

    Attributes: `alarms`, by name; `topic`; `composite`, one alarm for all that hurt clients, None unless asked for.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        proxy: TidegateProxy,
        thresholds: Thresholds | None = None,
        topic: sns.ITopic | None = None,
        email: str | None = None,
        composite: bool = False,
        runbook_url: str = RUNBOOK,
    ) -> None:
        """Parameters: `topic`, by default one of its own; `email`, who gets a mail for each; `composite`, make one
        alarm of those that hurt clients, and send that one in their place, so that one fault is one message;
        `runbook_url`, where the folder docs/runbook can be read."""
        super().__init__(scope, construct_id)
        limits = thresholds or Thresholds()
        self._runbook_url = runbook_url.rstrip("/")
        self._proxy_name = proxy.db_proxy_name
        self.topic = topic or alarm_topic(self)
        if email is not None:
            self.topic.add_subscription(subscriptions.EmailSubscription(email))
        rules = [*proxy_rules(proxy.metrics, limits), *platform_rules(self, proxy, limits, self.topic)]
        self.alarms = {rule.name: self._alarm(rule) for rule in rules}
        self.composite: cloudwatch.CompositeAlarm | None = None
        together: list[str] = []
        if composite:
            together = [rule.name for rule in rules if rule.urgent]
            self.composite = cloudwatch.CompositeAlarm(
                self,
                "ClientsSuffer",
                alarm_rule=cloudwatch.AlarmRule.any_of(
                    *(
                        cloudwatch.AlarmRule.from_alarm(self.alarms[name], cloudwatch.AlarmState.ALARM)
                        for name in together
                    )
                ),
                alarm_description=f"Clients of the proxy {self._proxy_name} suffer: see which of its alarms ring.",
            )
            self._send(self.composite)
        for name, alarm in self.alarms.items():
            if name not in together:
                self._send(alarm)

    def _send(self, alarm: cloudwatch.AlarmBase) -> None:
        action = actions.SnsAction(self.topic)
        alarm.add_alarm_action(action)
        alarm.add_ok_action(action)

    def _alarm(self, rule: Rule) -> cloudwatch.Alarm:
        above = cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD
        below = cloudwatch.ComparisonOperator.LESS_THAN_THRESHOLD
        return cloudwatch.Alarm(
            self,
            rule.name,
            alarm_name=f"{self._proxy_name}-{rule.page}",
            alarm_description=f"{rule.reason} {rule.remedy} Runbook: {self._runbook_url}/{rule.page}.md",
            metric=rule.metric,
            threshold=rule.threshold,
            comparison_operator=below if rule.below else above,
            evaluation_periods=rule.of or rule.periods,
            datapoints_to_alarm=rule.periods,
            treat_missing_data=rule.missing,
        )
