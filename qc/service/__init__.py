"""The daemon: jobs, scheduler, inboxes, backups, logging, systemd."""

__all__ = [
    "daemon",
    "inboxes",
    "job",
    "jobs",
    "logging",
    "maintenance",
    "scheduler",
    "systemd",
]
