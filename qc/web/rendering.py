"""Rendering of page templates."""

from datetime import UTC
from functools import cache
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from qc._text import pluralise
from qc.web import auth, deps, security, urls


def render(request: Request, template: str, *, status: int = 200, **context: Any) -> HTMLResponse:
    """Return a page; the browser does not cache it.

    Parameters
    ----------
    request : Request
    template : str
        File name in ``templates``.
    status : int
    **context
        Variables of the template.
    """
    token = auth.csrf_token_of(request)
    content = (
        load_templates()
        .get_template(template)
        .render(
            request=request,
            project=deps.get_project(request).settings.project.name,
            user=auth.principal_of(request),
            has_session=auth.SESSION_COOKIE in request.cookies,
            csrf_token=token,
            csrf=lambda: Markup('<input type="hidden" name="{}" value="{}">').format(
                security.CSRF_FIELD, token
            ),
            status=status,
            generated_at=request.app.state.now().astimezone(UTC),
            **context,
        )
    )
    return HTMLResponse(content, status, headers={"Cache-Control": "no-store"})


@cache
def load_templates() -> Environment:
    """Return the template environment with the filters and functions of all pages."""
    environment = Environment(
        loader=PackageLoader("qc.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"counted": pluralise, "frame_url": urls.frame_url}
    environment.filters |= {
        "frame_address": urls.frame_address,
        "thumbnail_address": urls.thumbnail_address,
    }
    return environment
