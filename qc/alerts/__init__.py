"""Verdicts become grouped notifications, and notifications become mails and webhooks."""
