"""Documentation page of the API, generated from the OpenAPI document."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import fastapi
from fastapi.responses import HTMLResponse
from pydantic import BaseModel

from qc.web import auth
from qc.web.rendering import render
from qc.web.security import DOCS_PATH

router = fastapi.APIRouter(include_in_schema=False)

Document = Mapping[str, Any]

_METHODS = ("get", "post", "put", "delete")
_NO_BOUND = 2**53  # larger bounds are not shown
_BOUNDS = {"minimum": "from", "maximum": "to", "exclusiveMaximum": "below", "maxLength": "up to"}
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
    """Reason of a refused request, in a sentence."""

    error: str


@dataclass(frozen=True)
class FieldDescription:
    """A parameter of an operation, or a field of its response."""

    name: str
    kind: str
    is_required: bool
    description: str
    where: str = ""


@dataclass(frozen=True)
class Operation:
    """An operation of the API.

    Attributes
    ----------
    parameters : tuple of FieldDescription
    response : str
        Status and type of a successful response.
    fields : tuple of FieldDescription
        Of the response, if it is a document with fixed fields.
    media : tuple of str
        Media types, if there are several.
    curl : str
        Example for the shell.
    """

    method: str
    path: str
    description: str
    parameters: tuple[FieldDescription, ...]
    response: str
    fields: tuple[FieldDescription, ...]
    media: tuple[str, ...]
    curl: str


@router.get(DOCS_PATH)
def docs(request: fastapi.Request, _user: auth.User) -> HTMLResponse:
    """Show the documentation of the API.

    Parameters
    ----------
    request : Request
    """
    document: dict[str, Any] = request.app.openapi()
    server = str(request.base_url).rstrip("/")
    return render(request, "api.html.j2", groups=group_operations(document, server))


def group_operations(document: Document, server: str) -> dict[str, list[Operation]]:
    """Return the operations of an OpenAPI document by subject.

    Parameters
    ----------
    document : mapping
    server : str
        Address for the examples.
    """
    groups: dict[str, list[Operation]] = {}
    for path, methods in document["paths"].items():
        for method in _METHODS:
            if method in methods:
                subject = path.removeprefix("/api/v1/").partition("/")[0]
                name = (methods[method].get("tags") or [subject])[0]
                operation = describe_operation(document, server, path, method)
                groups.setdefault(name, []).append(operation)
    return groups


def describe_operation(document: Document, server: str, path: str, method: str) -> Operation:
    """Return the description of an operation.

    Parameters
    ----------
    document : mapping
    server, path, method : str
    """
    entry = document["paths"][path][method]
    status, response = next(item for item in entry["responses"].items() if item[0].startswith("2"))
    content: dict[str, Any] = response.get("content", {})
    schema = resolve(document, content.get(next(iter(content), ""), {}).get("schema", {}))
    items = resolve(document, schema["items"]) if "items" in schema else schema
    media, body = find_body(document, entry)
    where = "form" if media.endswith("data") else "body"
    kind = "nothing" if status == "204" else "a file"
    return Operation(
        method=method.upper(),
        path=path,
        description=entry.get("description", entry.get("summary", "")),
        parameters=(*list_parameters(document, entry), *list_fields(document, body, where)),
        response=f"{status}, {describe_type(document, schema) if schema else kind}",
        fields=tuple(list_fields(document, items, "")),
        media=tuple(content) if len(content) > 1 else (),
        curl=make_curl(document, server, path, method),
    )


# --- schemas --------------------------------------------------------------------------------------


def find_body(document: Document, entry: Document) -> tuple[str, dict[str, Any]]:
    """Return media type and schema of a request body; empty without one.

    Parameters
    ----------
    document : mapping
    entry : mapping
        The operation in the document.
    """
    content = entry.get("requestBody", {}).get("content", {})
    media = next(iter(content), "")
    return media, resolve(document, content.get(media, {}).get("schema", {}))


def resolve(document: Document, schema: Document) -> dict[str, Any]:
    """Return a schema, looked up if it is a reference.

    Parameters
    ----------
    document, schema : mapping
    """
    if "$ref" not in schema:
        return dict(schema)
    name = schema["$ref"].rpartition("/")[2]
    target: dict[str, Any] = document["components"]["schemas"][name]
    return target


def list_parameters(document: Document, entry: Document) -> Iterator[FieldDescription]:
    """Yield the parameters of an operation.

    Parameters
    ----------
    document : mapping
    entry : mapping
        The operation in the document.
    """
    for parameter in entry.get("parameters", ()):
        schema = parameter.get("schema", {})
        description = parameter.get("description", "") or schema.get("description", "")
        yield FieldDescription(
            parameter["name"],
            describe_type(document, schema),
            parameter.get("required", False),
            description,
            parameter["in"],
        )


def list_fields(document: Document, schema: Document, where: str) -> Iterator[FieldDescription]:
    """Yield the fields of an object.

    Parameters
    ----------
    document, schema : mapping
    where : str
        Place of the fields in the request.
    """
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        kind, description = describe_type(document, field), field.get("description", "")
        yield FieldDescription(name, kind, name in required, description, where)


def describe_type(document: Document, schema: Document) -> str:
    """Return the type of a schema in words.

    Parameters
    ----------
    document, schema : mapping
    """
    if "anyOf" in schema:
        options = [option for option in schema["anyOf"] if option.get("type") != "null"]
        return " or ".join(dict.fromkeys(describe_type(document, option) for option in options))
    schema = resolve(document, schema)
    if "enum" in schema:
        return " or ".join(map(json.dumps, schema["enum"]))
    if schema.get("type") == "array":
        items = schema.get("items") or (schema.get("prefixItems") or [{}])[0]
        return f"list of {describe_type(document, items)}"
    if "properties" in schema:
        return str(schema.get("title", "document"))
    if schema.get("type") == "object":
        return "document"
    bounds = [
        f"{relation} {schema[name]}"
        for name, relation in _BOUNDS.items()
        if schema.get(name, _NO_BOUND) < _NO_BOUND
    ]
    kind = " ".join([str(schema.get("type", "anything")).replace("null", "nothing"), *bounds])
    return str(schema.get("format", "")).replace("binary", "file") or kind


# --- examples -------------------------------------------------------------------------------------


def make_curl(document: Document, server: str, path: str, method: str) -> str:
    """Return a curl command for an operation, with the required parameters.

    Parameters
    ----------
    document : mapping
    server, path, method : str
    """
    entry = document["paths"][path][method]
    required = [item for item in entry.get("parameters", ()) if item.get("required")]
    values = {
        parameter["name"]: make_example(document, parameter["name"], parameter["schema"])
        for parameter in required
    }
    address = path
    for parameter in required:
        name = parameter["name"]
        if parameter["in"] == "path":
            address = address.replace(f"{{{name}}}", quote(str(values.pop(name)), safe=":"))
    query = f"?{urlencode(values, doseq=True)}" if values else ""
    parts = ["curl -H 'Authorization: Bearer TOKEN'"]
    media, body = find_body(document, entry)
    if media.endswith("json"):
        content = json.dumps(make_example(document, "", body))
        parts.append(f"-H 'Content-Type: application/json' -d '{content}'")
    elif media:
        parts.append("-F file=@frame.fits")
    elif method != "get":
        parts.append(f"-X {method.upper()}")
    return " ".join([*parts, f"'{server}{address}{query}'"])


def make_example(document: Document, name: str, schema: Document) -> Any:
    """Return an example of a schema, with the required fields.

    Parameters
    ----------
    document : mapping
    name : str
        Name of the parameter; some have a fixed example.
    schema : mapping
    """
    if name in _EXAMPLES:
        return _EXAMPLES[name]
    schema = resolve(document, schema)
    if schema.get("type") == "array":
        return [make_example(document, name, schema["items"])]
    if "properties" in schema:
        return {
            field: make_example(document, field, schema["properties"][field])
            for field in schema.get("required", ())
        }
    if "enum" in schema:
        return schema["enum"][0]
    defaults = {"integer": schema.get("minimum", 1), "number": 1.0, "boolean": True}
    return defaults.get(schema.get("type", ""), "words")
