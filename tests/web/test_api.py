"""The API keeps what its own document promises, whoever asks and whatever is asked."""

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
from qc.web.api.documentation import groups_of
from qc.web.app import create_app
from tests.support.browser import pages_of, serving
from tests.support.databases import copied
from tests.support.tiny import light_leak, open_tiny, process, write_frame, write_history

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
# What is asked for is now and then what there is: else nearly all answers are 404.
KNOWN = {"name": "TINY.2026-01-02T20:00:00", "image_type": "TB0", "number": 1}


@pytest.fixture(scope="module")
def tokens(empty_project, tmp_path_factory):
    """A project that may be written to, served, and a token for each role."""
    folder = tmp_path_factory.mktemp("api")
    (inbox := folder / "inbox").mkdir()
    with (
        copied(empty_project, folder / "project") as project_folder,
        open_tiny(project_folder) as project,
    ):
        process(project, *write_history(inbox), label=LabelName.GOOD)
        process(project, write_frame(inbox, 2, change=light_leak), write_frame(inbox, 2, 1))
        made = {"": ""}
        with project.writes.begin() as session:
            for role in Role:
                db.accounts.add_account(session, role.value, role, PASSWORD, NOW)
                made[role.value] = db.accounts.make_token(session, role.value, NOW)
        with serving(project, lambda: NOW) as served:
            yield served, made


def operations(project):
    document = schemathesis.openapi.from_dict(create_app(project).openapi())
    found = [one.ok() for one in document.get_all_operations() if isinstance(one, Ok)]
    assert len(found) > 20
    return found


@pytest.mark.parametrize("role", ["", *Role])
def test_every_answer_is_as_the_document_says(tokens, role):
    served, made = tokens
    headers = {"Authorization": f"Bearer {made[role]}"} if role else {}
    statuses = set()

    def ask(operation, known):
        @given(case=operation.as_strategy())
        @settings(
            max_examples=EXAMPLES if role else 1,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def one(case):
            if known:
                given_names = set(case.path_parameters or {})
                case.path_parameters.update({k: KNOWN[k] for k in given_names & set(KNOWN)})
            answer = case.call(base_url=served.url, headers=headers)
            statuses.add(answer.status_code)
            case.validate_response(answer, checks=PROMISES)

        one()

    for operation in operations(served.project):
        for known in (True, False):
            ask(operation, known)
    if role:
        assert 200 in statuses
    else:
        assert statuses == {401}


def is_told(document, schema):
    """Say whether a schema says what comes: a document's fields, or of what a list is."""
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    if schema.get("type") == "array":
        return is_told(document, schema.get("items", {}))
    return bool(schema.get("properties")) if schema.get("type") == "object" else "type" in schema


def test_every_parameter_is_described_and_every_answer_has_a_schema(project):
    document = create_app(project).openapi()
    silent, shapeless = [], []
    for path, methods in document["paths"].items():
        for method, told in methods.items():
            silent += [
                f"{method} {path}: {one['name']}"
                for one in told.get("parameters", ())
                if not (one.get("description") or one["schema"].get("description"))
            ]
            for media in told.get("requestBody", {}).get("content", {}).values():
                assert is_told(document, media["schema"])
            done = {k: v for k, v in told["responses"].items() if k.startswith("2")}
            assert done
            for status, answer in done.items():
                content = answer.get("content", {})
                if status != "204" and not content:
                    shapeless.append(f"{method} {path}")
                for media, how in content.items():
                    if not is_told(document, how.get("schema", {})):
                        shapeless.append(f"{method} {path}: {media}")
    assert silent == []
    assert shapeless == []


def test_a_bare_document_is_no_schema_of_an_answer():
    document = {"components": {"schemas": {"Bare": {"type": "object"}}}}
    bare = {"type": "object", "additionalProperties": True}
    for one in ({}, bare, {"type": "array", "items": bare}, {"$ref": "#/components/schemas/Bare"}):
        assert not is_told(document, one)
    assert is_told(document, {"type": "object", "properties": {"a": {}}})


def test_the_api_is_told_on_a_page_with_an_example_of_each_address(project):
    pages = pages_of(project)
    page, document = pages.get("/api/docs").text, pages.get("/api/openapi.json").json()
    for path, methods in document["paths"].items():
        assert path.startswith("/api/v1/")
        for method in methods:
            assert f"<code>{method.upper()} {path}</code>" in page
    assert page.count("curl -H &#39;Authorization: Bearer TOKEN&#39;") >= len(document["paths"])
    assert "<script>" not in page


def test_an_example_of_the_page_does_what_it_says(tokens):
    served, made = tokens
    document = create_app(served.project).openapi()
    [one] = [
        one
        for group in groups_of(document, served.url).values()
        for one in group
        if (one.method, one.path) == ("GET", "/api/v1/trends/{image_type}")
    ]
    words = one.curl.replace("TOKEN", made["look"]).replace("UBB0", "TB0")
    command, option, header, address = shlex.split(words)
    assert (command, option) == ("curl", "-H")
    name, _, value = header.partition(": ")
    assert httpx.get(address, headers={name: value}).json()["image_type"] == "TB0"


def test_a_stranger_who_wants_to_read_of_the_api_comes_to_the_login(tokens):
    pages = pages_of(tokens[0].project)
    answer = pages.get("/api/docs", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/login?to=/api/docs")
