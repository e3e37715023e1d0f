"""Alerts: grouped into notifications, sent by mail or webhook, acknowledged, silenced, escalated.

`gather` groups pending alerts, `recipients` assigns and escalates, `dispatch` sends.
"""

__all__ = [
    "content",
    "dispatch",
    "email",
    "gather",
    "grouping",
    "notifications",
    "recipients",
    "report_mail",
    "silences",
    "subjects",
    "traces",
    "webhook",
]
