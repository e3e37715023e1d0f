"""The API as a page: what each address takes and answers, made from the OpenAPI document."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel

from qc.web.auth import DOCS, Anybody
from qc.web.rendering import render

router = APIRouter(include_in_schema=False)

_METHODS = ("get", "post", "put", "delete")
_MUCH = 2**53  # no bound that anybody meets
_EXAMPLES: Mapping[str, Any] = {
    "name": "UVES.2026-07-15T09:08:57.612",
    "frame": "UVES.2026-07-15T09:08:57.612",
    "image_type": "UBB0",
    "type": "UBB0",
    "number": 1,
    "key": "my-script-0001",
    "label": "good",
}


class ProblemDetail(BaseModel):
    """Why a request was not done, in a sentence."""

    error: str


@dataclass(frozen=True)
class FieldDescription:
    """Something that an address takes, or that an answer holds."""

    name: str
    kind: str
    is_needed: bool
    words: str
    where: str = ""


@dataclass(frozen=True)
class Operation:
    """One address and method.

    Attributes
    ----------
    takes, gives : tuple of Field
        Of the request; of the answer, as far as it is a document whose fields are fixed.
    answer : str
        What kind of answer comes when it was done.
    media : tuple of str
        In which forms it can come.
    curl : str
        An example for the shell.
    """

    method: str
    path: str
    words: str
    takes: tuple[FieldDescription, ...]
    answer: str
    gives: tuple[FieldDescription, ...]
    media: tuple[str, ...]
    curl: str


@router.get(DOCS)
def docs(request: Request, _who: Anybody) -> HTMLResponse:
    """Show all that programs may ask."""
    document: dict[str, Any] = request.app.openapi()
    server = str(request.base_url).rstrip("/")
    return render(request, "api.html.j2", groups=groups_of(document, server))


def groups_of(document: Mapping[str, Any], server: str) -> dict[str, list[Operation]]:
    """Return the operations of an OpenAPI document by subject."""
    groups: dict[str, list[Operation]] = {}
    for path, methods in document["paths"].items():
        for method in _METHODS:
            if method in methods:
                subject = path.removeprefix("/api/v1/").partition("/")[0]
                name = (methods[method].get("tags") or [subject])[0]
                one = _operation(document, server, path, method)
                groups.setdefault(name, []).append(one)
    return groups


def _operation(document: Mapping[str, Any], server: str, path: str, method: str) -> Operation:
    told = document["paths"][path][method]
    status, done = next(item for item in told["responses"].items() if item[0].startswith("2"))
    content: dict[str, Any] = done.get("content", {})
    schema = _seen(document, content.get(next(iter(content), ""), {}).get("schema", {}))
    given = tuple(_parameters(document, told))
    media, body = _body_of(document, told)
    kind = _kind(document, schema) if schema else ("nothing" if status == "204" else "a file")
    return Operation(
        method=method.upper(),
        path=path,
        words=told.get("description", told.get("summary", "")),
        takes=(*given, *_fields(document, body, "form" if media.endswith("data") else "body")),
        answer=f"{status}, {kind}",
        gives=tuple(_fields(document, _items(document, schema), "")),
        media=tuple(content) if len(content) > 1 else (),
        curl=_curl(document, server, path, method, told),
    )


def _body_of(document: Mapping[str, Any], told: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    content = told.get("requestBody", {}).get("content", {})
    media = next(iter(content), "")
    return media, _seen(document, content.get(media, {}).get("schema", {}))


def _seen(document: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema itself where there is only its name."""
    if "$ref" not in schema:
        return dict(schema)
    name = schema["$ref"].rpartition("/")[2]
    found: dict[str, Any] = document["components"]["schemas"][name]
    return found


def _items(document: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    return _seen(document, schema["items"]) if "items" in schema else dict(schema)


def _parameters(document: Mapping[str, Any], told: Mapping[str, Any]) -> Iterator[FieldDescription]:
    for one in told.get("parameters", ()):
        schema = one.get("schema", {})
        words = one.get("description", "") or schema.get("description", "")
        is_needed = one.get("required", False)
        yield FieldDescription(one["name"], _kind(document, schema), is_needed, words, one["in"])


def _fields(
    document: Mapping[str, Any], schema: Mapping[str, Any], where: str
) -> Iterator[FieldDescription]:
    needed = schema.get("required", ())
    for name, one in schema.get("properties", {}).items():
        kind, words = _kind(document, one), one.get("description", "")
        yield FieldDescription(name, kind, name in needed, words, where)


def _kind(document: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """Say in words what fits a schema."""
    if "anyOf" in schema:
        some = [one for one in schema["anyOf"] if one.get("type") != "null"]
        return " or ".join(dict.fromkeys(_kind(document, one) for one in some))
    found = _seen(document, schema)
    if "enum" in found:
        return " or ".join(map(json.dumps, found["enum"]))
    if found.get("type") == "array":
        items = found.get("items") or (found.get("prefixItems") or [{}])[0]
        return f"list of {_kind(document, items)}"
    if found.get("type") == "object" or "properties" in found:
        return str(found.get("title", "document")) if "properties" in found else "document"
    kind = str(found.get("type", "anything")).replace("null", "nothing")
    return str(found.get("format", "")).replace("binary", "file") or kind + _bounds(found)


def _bounds(schema: Mapping[str, Any]) -> str:
    names = {"minimum": "from", "maximum": "to", "exclusiveMaximum": "below", "maxLength": "up to"}
    told = [
        f"{word} {schema[one]}" for one, word in names.items() if schema.get(one, _MUCH) < _MUCH
    ]
    return f" {' '.join(told)}" if told else ""


# --- an example -----------------------------------------------------------------------------------


def _curl(
    document: Mapping[str, Any], server: str, path: str, method: str, told: Mapping[str, Any]
) -> str:
    given = [one for one in told.get("parameters", ()) if one.get("required")]
    values = {one["name"]: _example(document, one["name"], one["schema"]) for one in given}
    for one in given:
        if one["in"] == "path":
            path = path.replace(f"{{{one['name']}}}", quote(str(values.pop(one["name"])), safe=":"))
    asked = f"?{urlencode(values, doseq=True)}" if values else ""
    words = ["curl -H 'Authorization: Bearer TOKEN'"]
    media, body = _body_of(document, told)
    if media.endswith("json"):
        sent = json.dumps(_example(document, "", body))
        words.append(f"-H 'Content-Type: application/json' -d '{sent}'")
    elif media:
        words.append("-F file=@frame.fits")
    elif method != "get":
        words.append(f"-X {method.upper()}")
    return " ".join([*words, f"'{server}{path}{asked}'"])


def _example(document: Mapping[str, Any], name: str, schema: Mapping[str, Any]) -> Any:
    """Return something that fits a schema: only what is needed."""
    if name in _EXAMPLES:
        return _EXAMPLES[name]
    found = _seen(document, schema)
    if found.get("type") == "array":
        return [_example(document, name, found["items"])]
    if "properties" in found:
        needed = found.get("required", ())
        return {one: _example(document, one, found["properties"][one]) for one in needed}
    if "enum" in found:
        return found["enum"][0]
    return {"integer": found.get("minimum", 1), "number": 1.0, "boolean": True}.get(
        found.get("type", ""), "words"
    )
