"""Responses of the API agree with its OpenAPI document, for each role."""

import shlex
from datetime import UTC, datetime

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.core.result import Ok
from schemathesis.specs.openapi import checks

from qc import db
from qc.core.enums import LabelName, Role
from qc.web.api.documentation import group_operations
from qc.web.app import create_app
from tests.support.browser import pages_of, serving
from tests.support.databases import copied_project
from tests.support.tiny_spectrograph import (
    light_leak,
    open_tiny,
    process,
    write_frame,
    write_history,
)

NOW = datetime(2026, 1, 8, 8, tzinfo=UTC)
PASSWORD = "echelle-390"
EXAMPLES = 6  # of each address: a run has its seconds
PROMISES = [
    schemathesis.checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
# Existing values for some requests: else nearly all responses are 404.
KNOWN = {"name": "TINY.2026-01-02T20:00:00", "image_type": "TB0", "number": 1}


@pytest.fixture(scope="module")
def tokens(empty_project, tmp_path_factory):
    """A project that may be written to, served, and a token for each role."""
    folder = tmp_path_factory.mktemp("api")
    (inbox := folder / "inbox").mkdir()
    with (
        copied_project(empty_project, folder / "project") as project_folder,
        open_tiny(project_folder) as project,
    ):
        process(project, *write_history(inbox), label=LabelName.GOOD)
        process(project, write_frame(inbox, 2, change=light_leak), write_frame(inbox, 2, 1))
        tokens_by_role = {"": ""}
        with project.write_session.begin() as session:
            for role in Role:
                db.accounts.add_account(session, role.value, role, PASSWORD, NOW)
                tokens_by_role[role.value] = db.accounts.make_token(session, role.value, NOW)
        with serving(project, lambda: NOW) as served:
            yield served, tokens_by_role


def operations(project):
    document = schemathesis.openapi.from_dict(create_app(project).openapi())
    operations_found = [
        operation.ok() for operation in document.get_all_operations() if isinstance(operation, Ok)
    ]
    assert len(operations_found) > 20
    return operations_found


@pytest.mark.slow
@pytest.mark.parametrize("role", ["", *Role])
def test_response_matches_openapi_document(tokens, role):
    served, tokens_by_role = tokens
    headers = {"Authorization": f"Bearer {tokens_by_role[role]}"} if role else {}
    statuses = set()

    def check(operation, use_known):
        @given(case=operation.as_strategy())
        @settings(
            max_examples=EXAMPLES if role else 1,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def check_case(case):
            if use_known:
                given_names = set(case.path_parameters or {})
                case.path_parameters.update({k: KNOWN[k] for k in given_names & set(KNOWN)})
            answer = case.call(base_url=served.url, headers=headers)
            statuses.add(answer.status_code)
            case.validate_response(answer, checks=PROMISES)

        check_case()

    for operation in operations(served.project):
        for use_known in (True, False):
            check(operation, use_known)
    if role:
        assert 200 in statuses
    else:
        assert statuses == {401}


def has_schema(document, schema):
    """Return True if a schema gives the fields of an object or the items of a list."""
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    if schema.get("type") == "array":
        return has_schema(document, schema.get("items", {}))
    return bool(schema.get("properties")) if schema.get("type") == "object" else "type" in schema


def test_openapi_document_describes_parameters_and_responses(project):
    document = create_app(project).openapi()
    silent, shapeless = [], []
    for path, methods in document["paths"].items():
        for method, entry in methods.items():
            silent += [
                f"{method} {path}: {parameter['name']}"
                for parameter in entry.get("parameters", ())
                if not (parameter.get("description") or parameter["schema"].get("description"))
            ]
            for media in entry.get("requestBody", {}).get("content", {}).values():
                assert has_schema(document, media["schema"])
            done = {k: v for k, v in entry["responses"].items() if k.startswith("2")}
            assert done
            for status, answer in done.items():
                content = answer.get("content", {})
                if status != "204" and not content:
                    shapeless.append(f"{method} {path}")
                for media, how in content.items():
                    if not has_schema(document, how.get("schema", {})):
                        shapeless.append(f"{method} {path}: {media}")
    assert silent == []
    assert shapeless == []


def test_has_schema_false_for_bare_object():
    document = {"components": {"schemas": {"Bare": {"type": "object"}}}}
    bare = {"type": "object", "additionalProperties": True}
    for item in ({}, bare, {"type": "array", "items": bare}, {"$ref": "#/components/schemas/Bare"}):
        assert not has_schema(document, item)
    assert has_schema(document, {"type": "object", "properties": {"a": {}}})


def test_docs_page_lists_every_operation_with_example(project):
    pages = pages_of(project)
    page, document = pages.get("/api/docs").text, pages.get("/api/openapi.json").json()
    for path, methods in document["paths"].items():
        assert path.startswith("/api/v1/")
        for method in methods:
            assert f"<code>{method.upper()} {path}</code>" in page
    assert page.count("curl -H &#39;Authorization: Bearer TOKEN&#39;") >= len(document["paths"])
    assert "<script>" not in page


def test_docs_example_returns_data(tokens):
    served, tokens_by_role = tokens
    document = create_app(served.project).openapi()
    [operation] = [
        item
        for group in group_operations(document, served.url).values()
        for item in group
        if (item.method, item.path) == ("GET", "/api/v1/trends/{image_type}")
    ]
    curl = operation.curl.replace("TOKEN", tokens_by_role["look"]).replace("UBB0", "TB0")
    command, option, header, address = shlex.split(curl)
    assert (command, option) == ("curl", "-H")
    name, _, value = header.partition(": ")
    assert httpx.get(address, headers={name: value}).json()["image_type"] == "TB0"


def test_docs_page_redirects_to_login_without_session(tokens):
    pages = pages_of(tokens[0].project)
    answer = pages.get("/api/docs", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/login?to=/api/docs")
