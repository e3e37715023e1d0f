"""Webhook transport: notifications as JSON for Mattermost, Slack and programs."""

import logging
import re
from collections.abc import Mapping
from typing import Any

import httpx

from qc import core, errors
from qc.alerts.content import NotificationContent

_TEMPORARY = (408, 425, 429)  # HTTP status codes below 500 that allow a retry
_MARKUP = re.compile(r"[`*~|\[\]]")


def build_message(content: NotificationContent, project: str) -> dict[str, Any]:
    """Return the JSON message of a notification.

    Parameters
    ----------
    content : NotificationContent
        Content.
    project : str
        Name of the project.

    Returns
    -------
    dict
        ``text`` and ``attachments`` are shown by Mattermost and Slack; ``qc`` is for programs.
    """
    headline = escape_markup(content.headline)
    lines = [f"**{headline}**"]
    lines += [content.url] if content.url else []
    reasons = content.worst.reasons if content.worst else content.messages
    lines += [f"- {escape_markup(reason)}" for reason in reasons[:3]]
    if content.topic != core.Topic.REPORT:
        lines.append(f"Acknowledge: `qc alerts ack {content.number}`")
    fields = [
        {"title": name, "value": escape_markup(value), "short": True}
        for name, value in content.facts.items()
    ]
    return {
        "text": "\n".join(lines),
        "attachments": [{"fallback": headline, "fields": fields}],
        "qc": {
            "notice": content.number,
            "topic": str(content.topic),
            "form": str(content.form),
            "subject": content.subject,
            "project": project,
            "facts": dict(content.facts),
            "words": list(content.messages),
            "reasons": list(content.worst.reasons) if content.worst else [],
            "frames": [line.name for line in content.lines],
            "total": content.total,
            "url": content.url,
        },
    }


def escape_markup(text: str) -> str:
    """Return a text without links, styles and mentions in a chat."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKUP.sub(" ", escaped).replace("@", "@\u200b")


def post_message(url: str, message: Mapping[str, Any], timeout_s: float) -> str:
    """Post a message as JSON.

    The URL may contain a secret. It appears neither in the log nor in errors.

    Parameters
    ----------
    url : str
        URL of the webhook.
    message : mapping
        JSON message.
    timeout_s : float
        Longest wait for the server, seconds.

    Returns
    -------
    str
        The server's answer.

    Raises
    ------
    RecipientRefusedError
        If the server refuses for good: a redirection, or a status code 4xx without retry.
    DeliveryError
        If the server cannot accept it now.
    """
    for name in ("httpx", "httpcore"):  # they log whole URLs
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        with (
            httpx.Client(timeout=timeout_s) as client,
            client.stream("POST", url, json=message) as response,
        ):
            code = response.status_code
    except httpx.TimeoutException:
        raise errors.DeliveryError("webhook: no answer in time") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        kind = type(error).__name__
        raise errors.DeliveryError(f"webhook: unreachable: {kind}") from None
    if 200 <= code < 300:
        return f"HTTP {code}"
    if 300 <= code < 500 and code not in _TEMPORARY:
        raise errors.RecipientRefusedError(f"webhook: refused: HTTP {code}")
    raise errors.DeliveryError(f"webhook: not accepted: HTTP {code}")
