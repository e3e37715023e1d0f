import logging
import re
from datetime import UTC, datetime, timedelta

import pytest
from fastapi import APIRouter
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from qc import db
from qc.core.enums import Role
from qc.db.schema.models import FailedLoginRow, SessionKeyRow
from qc.errors import AuthenticationError, ConfigurationError, InvalidInputError
from qc.settings import WebSettings
from qc.web.app import create_app
from qc.web.auth import Reviewer, Tuner, User
from qc.web.server import check_reach
from tests.support.browser import routes_of, window

NOW = datetime(2026, 1, 2, 9, tzinfo=UTC)
PASSWORD = "echelle-390"
OTHER_SITE = {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}
OWN_SITE = {"Sec-Fetch-Site": "same-origin"}

router = APIRouter()


@router.get("/look")
def look(user: User) -> str:
    return f"{user.name} {user.role.name}"


@router.post("/review")
def review(user: Reviewer) -> str:
    return user.name


@router.post("/tune")
def tune(user: Tuner) -> str:
    return user.name


@router.post("/api/v1/review")
def review_by_script(user: Reviewer) -> str:
    return user.name


class Clock:
    """Clock that a test sets."""

    def __init__(self) -> None:
        self.at = NOW

    def __call__(self) -> datetime:
        return self.at


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def ask(project, clock):
    """Return a factory of clients; by default they connect from this machine."""

    def browser(peer: str = "127.0.0.1", host: str = "localhost", **web) -> TestClient:
        settings = project.settings.model_copy(update={"web": WebSettings(**web)})
        object.__setattr__(project, "settings", settings)
        app = create_app(project, clock)
        app.include_router(router)
        return TestClient(
            app, base_url=f"http://{host}", client=(peer, 50000), follow_redirects=False
        )

    return browser


@pytest.fixture
def add(project):
    """Return a function that adds an account and returns its name."""

    def add_account(name: str = "kim", role: Role = Role.REVIEW) -> str:
        with project.write_session.begin() as session:
            db.accounts.add_account(session, name, role, PASSWORD, NOW)
        return name

    return add_account


def csrf_token_of(client: TestClient, path: str = "/login") -> str:
    match = re.search(r'name="csrf" content="([0-9a-f]{64})"', client.get(path).text)
    assert match
    return match[1]


def log_in(client: TestClient, name: str = "kim", password: str = PASSWORD, **more: str):
    data = {"name": name, "password": password, "csrf": csrf_token_of(client)} | more
    return client.post("/login", data=data, headers=OWN_SITE)


# --- without accounts -----------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "localhost:8765"])
def test_own_machine_has_all_roles_without_accounts(ask, host):
    client = ask(host=host)
    assert client.get("/look").json().endswith("TUNE")
    assert client.post("/tune").status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "10.0.0.7", "127.0.0.1@evil"]
)
def test_foreign_host_name_is_refused_without_accounts(ask, host):
    client = ask()
    assert client.get("/look", headers={"Host": host}).status_code == 403


def test_other_machine_is_refused_without_accounts(ask):
    refusal = ask(peer="10.0.0.7").get("/look")
    assert refusal.status_code == 403
    assert "qc users add" in refusal.text


def test_forwarded_request_is_refused_without_accounts(ask):
    client = ask()
    assert client.get("/look", headers={"X-Forwarded-For": "10.0.0.7"}).status_code == 403


def test_check_reach_requires_account(project, add):
    check_reach(project, "127.0.0.1")
    check_reach(project, "::1")
    for host in ("0.0.0.0", "::", "qc.example.org"):
        with pytest.raises(ConfigurationError, match="qc users add NAME"):
            check_reach(project, host)
    add()
    check_reach(project, "0.0.0.0")


def test_cross_site_request_is_refused_without_accounts(ask):
    client = ask()
    assert client.post("/tune", headers=OTHER_SITE).status_code == 403
    assert client.post("/tune", headers={"Origin": "https://evil.example"}).status_code == 403
    assert client.post("/tune", headers=OWN_SITE).status_code == 403
    marked = OWN_SITE | {"X-CSRF-Token": csrf_token_of(client)}
    assert client.post("/tune", headers=marked).status_code == 200
    assert client.post("/tune", headers=marked | OTHER_SITE).status_code == 403


# --- accounts -------------------------------------------------------------------------------------


def test_add_account_rejects_invalid_name_or_password(project, add):
    add()
    with project.write_session.begin() as session:
        for name, password, message in (
            ("kim", PASSWORD, "already"),
            ("a b", PASSWORD, "expected letters"),
            ("<b>", PASSWORD, "expected letters"),
            ("ann", "short", "10 to 1024"),
        ):
            with pytest.raises(InvalidInputError, match=message):
                db.accounts.add_account(session, name, Role.LOOK, password, NOW)
        with pytest.raises(InvalidInputError, match="no account 'nobody'"):
            db.accounts.remove_account(session, "nobody")


@pytest.mark.sqlite
def test_no_secret_is_stored_in_plain_text(project, add, project_folder):
    add()
    key = db.accounts.log_in(
        project.write_session, "kim", PASSWORD, "10.0.0.7", NOW, timedelta(hours=1)
    )
    with project.write_session.begin() as session:
        token = db.accounts.make_token(session, "kim", NOW)
    project.engine.dispose()
    stored = b"".join(path.read_bytes() for path in project_folder.glob("qc.db*"))
    assert not any(secret.encode() in stored for secret in (PASSWORD, key, token))
    assert b"$argon2id$" in stored


def test_role_includes_lower_roles():
    assert [[item.includes(lower) for lower in Role] for item in Role] == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]


# --- login ----------------------------------------------------------------------------------------


def test_request_without_session_is_redirected_to_login(ask, add):
    add()
    client = ask()
    answer = client.get("/look?night=2026-01-01")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/login?to=/look%3Fnight%3D2026-01-01"
    assert client.get("/api/v1/nothing").status_code == 401
    assert client.get("/api/openapi.json").status_code == 401
    assert client.post("/review").status_code == 401
    assert client.get("/static/pages.css").status_code == 200


def test_login_redirects_to_requested_page(ask, add):
    add()
    client = ask(peer="10.0.0.7", host="qc.example.org")
    answer = log_in(client, to="/look")
    assert (answer.status_code, answer.headers["location"]) == (303, "/look")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert "Secure" not in cookie
    assert client.get("/look").json() == "kim REVIEW"


@pytest.mark.parametrize("to", ["//evil.example", "https://evil.example", "/\\evil.example", "/\n"])
def test_login_never_redirects_to_other_host(ask, add, to):
    add()
    assert log_in(ask(), to=to).headers["location"] == "/"


def test_session_ends_after_timeout_or_logout(ask, add, clock, project):
    add()
    client = ask(session_h=2)
    log_in(client)
    clock.at = NOW + timedelta(hours=2, seconds=1)
    assert client.get("/look").status_code == 303
    log_in(client)
    session_key = client.cookies["qc_session"]
    marked = OWN_SITE | {"X-CSRF-Token": csrf_token_of(client, "/")}
    assert client.post("/logout", headers=marked).headers["location"] == "/login"
    assert client.get("/look", headers={"Cookie": f"qc_session={session_key}"}).status_code == 303
    with project.read_session() as session:
        assert session.query(SessionKeyRow).count() == 0


def test_session_ends_when_account_changes(ask, add, project):
    add()
    client = ask()
    log_in(client)
    with project.write_session.begin() as session:
        db.accounts.change_password(session, "kim", "another-password")
    assert client.get("/look").status_code == 303
    assert log_in(client).status_code == 403
    assert log_in(client, password="another-password").status_code == 303
    add("ann")
    with project.write_session.begin() as session:
        db.accounts.remove_account(session, "kim")
    assert client.get("/look").status_code == 303


def test_login_error_is_the_same_for_unknown_user_and_wrong_password(ask, add):
    add()
    client = ask()
    answers = [
        log_in(client, "kim", "wrong-password"),
        log_in(client, "nobody"),
        log_in(client, "\x00"),
    ]
    assert {answer.status_code for answer in answers} == {403}
    assert all("Invalid user name or password." in answer.text for answer in answers)


def test_login_rate_limit_per_address(ask, add, clock):
    add()
    client, owner = ask(peer="10.0.0.7"), ask(peer="10.0.0.8")
    for _ in range(db.accounts.MOST_OF_BOTH):
        assert "Invalid user name" in log_in(client, password="wrong-password").text
    refused = log_in(client)
    assert refused.status_code == 403
    assert "try again in 15 minutes" in refused.text
    assert log_in(owner).status_code == 303
    clock.at = NOW + db.accounts.WINDOW + timedelta(seconds=1)
    assert log_in(client).status_code == 303


def test_login_rate_limit_over_many_names(project, add):
    add()
    with project.write_session.begin() as session:
        session.add_all(
            FailedLoginRow(name_digest=str(n), address="10.0.0.7", at=NOW)
            for n in range(db.accounts.MOST_OF_ADDRESS)
        )
    with pytest.raises(AuthenticationError, match="too many"):
        db.accounts.log_in(
            project.write_session, "kim", PASSWORD, "10.0.0.7", NOW, timedelta(hours=1)
        )


def test_login_log_contains_no_input(ask, add, caplog):
    add()
    client = ask(peer="10.0.0.7")
    with caplog.at_level(logging.INFO, "qc.db.accounts"):
        log_in(client, password="wrong-password")
        log_in(client, "my-secret-password")
        log_in(client)
    logged = [(record.message, record.account, record.address) for record in caplog.records]
    assert logged == [
        ("login refused", "kim", "10.0.0.7"),
        ("login refused", "unknown", "10.0.0.7"),
        ("login", "kim", "10.0.0.7"),
    ]
    facts = str([vars(record) for record in caplog.records])
    assert not any(text in facts for text in ("wrong-password", "my-secret-password", PASSWORD))


def test_login_requires_csrf_token(ask, add):
    add()
    client = ask()
    data = {"name": "kim", "password": PASSWORD, "csrf": "0" * 64}
    assert client.post("/login", data=data, headers=OWN_SITE).status_code == 403
    data["csrf"] = csrf_token_of(client)
    assert client.post("/login", data=data, headers=OTHER_SITE).status_code == 403


# --- roles and CSRF -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("role", "review", "tune"),
    [(Role.LOOK, 403, 403), (Role.REVIEW, 200, 403), (Role.TUNE, 200, 200)],
)
def test_role_limits_operations(ask, add, role, review, tune):
    add(role=role)
    client = ask()
    log_in(client)
    marked = OWN_SITE | {"X-CSRF-Token": csrf_token_of(client, "/")}
    assert client.get("/look").status_code == 200
    assert client.post("/review", headers=marked).status_code == review
    assert client.post("/tune", headers=marked).status_code == tune


def test_session_requires_csrf_token(ask, add):
    add()
    client = ask()
    log_in(client)
    mark = csrf_token_of(client, "/")
    assert client.post("/review").status_code == 403
    assert client.post("/review", data={"csrf": "0" * 64}).status_code == 403
    assert client.post("/review", data={}).status_code == 403
    assert client.post("/review", headers={"X-CSRF-Token": ""}).status_code == 403
    assert client.post("/review", data={"csrf": mark}).status_code == 200
    assert client.post("/review", headers={"X-CSRF-Token": mark}).status_code == 200
    assert client.post("/review", data={"csrf": mark}, headers=OTHER_SITE).status_code == 403


def test_csrf_token_of_other_session_is_refused(ask, add):
    add()
    add("ann")
    first, second = ask(), ask()
    log_in(first)
    log_in(second, "ann")
    assert second.post("/review", data={"csrf": csrf_token_of(first, "/")}).status_code == 403


def test_every_changing_route_requires_csrf_token(ask):
    client = ask()
    ways = [
        (method, re.sub("{[a-z_]+}", "1", item.path))
        for item in routes_of(client.app)
        if isinstance(item, APIRoute)
        for method in sorted((item.methods or set()) - {"GET"})
    ]
    assert len(ways) > 10
    for method, path in ways:
        for headers in (OWN_SITE, OTHER_SITE):
            form = {} if method == "DELETE" else {"data": {"csrf": "0" * 64}}
            answer = client.request(method, path, headers=headers, **form)
            assert (answer.status_code, "nothing was changed" in answer.text) == (403, True), path


def test_token_is_valid_for_api_only(ask, add, project):
    add()
    with project.write_session.begin() as session:
        token = db.accounts.make_token(session, "kim", NOW)
    client = ask(peer="10.0.0.7")
    bearer = {"Authorization": f"Bearer {token}"}
    assert client.post("/api/v1/review", headers=bearer).json() == "kim"
    assert client.post("/review", headers=bearer).status_code == 401
    wrong = client.post("/api/v1/review", headers={"Authorization": "Bearer qc_nothing"})
    assert (wrong.status_code, wrong.headers["www-authenticate"]) == (401, "Bearer")
    with project.write_session.begin() as session:
        assert db.accounts.revoke_tokens(session, "kim") == 1
    assert client.post("/api/v1/review", headers=bearer).status_code == 401


def test_session_key_and_token_are_not_interchangeable(ask, add, project):
    add()
    client = ask()
    log_in(client)
    bearer = {"Authorization": f"Bearer {client.cookies['qc_session']}"}
    assert ask().get("/api/v1/nothing", headers=bearer).status_code == 401
    with project.write_session.begin() as session:
        token = db.accounts.make_token(session, "kim", NOW)
    assert ask().get("/look", headers={"Cookie": f"qc_session={token}"}).status_code == 303


# --- behind a proxy -------------------------------------------------------------------------------

PROXY = {"trusted_header": "X-Remote-User", "trusted_proxies": ("10.1.0.0/16",)}


def test_proxy_user_header_from_trusted_proxy_only(ask, add):
    add()
    headers = {"X-Remote-User": "kim"}
    assert ask(peer="10.1.0.3", **PROXY).get("/look", headers=headers).json() == "kim REVIEW"
    assert ask(peer="10.0.0.7", **PROXY).get("/look", headers=headers).status_code == 303
    unknown = {"X-Remote-User": "eve"}
    assert ask(peer="10.1.0.3", **PROXY).get("/look", headers=unknown).status_code == 403
    assert ask(peer="10.1.0.3", **PROXY).get("/look").status_code == 403


def test_proxy_user_without_account_is_refused(ask):
    assert ask(peer="127.0.0.1", **PROXY).get("/look").status_code == 303


def test_cookies_are_secure_behind_tls(ask, add):
    add()
    client = ask(peer="10.1.0.3", trusted_proxies=("10.1.0.0/16",))
    answer = client.get("/login", headers={"X-Forwarded-Proto": "https"})
    assert "Secure" in answer.headers["set-cookie"]
    response = ask(peer="10.0.0.7").get("/login", headers={"X-Forwarded-Proto": "https"})
    assert "Secure" not in response.headers["set-cookie"]


def test_login_log_has_forwarded_address(ask, add, caplog):
    add()
    client = ask(peer="10.1.0.3", trusted_proxies=("10.1.0.3",))
    data = {"name": "kim", "password": "wrong-password", "csrf": csrf_token_of(client)}
    with caplog.at_level(logging.INFO, "qc.db.accounts"):
        client.post("/login", data=data, headers={"X-Forwarded-For": "6.6.6.6, 192.0.2.7"})
    assert [record.address for record in caplog.records] == ["192.0.2.7"]


# --- bounds ---------------------------------------------------------------------------------------


def test_body_size_is_limited_with_and_without_length(ask):
    client = ask()
    block = b"a=" + b"x" * 2**20
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    assert client.post("/login", content=block * 3, headers=kind).status_code == 413
    assert client.post("/login", content=iter([block] * 3), headers=kind).status_code == 413


# --- in a browser ---------------------------------------------------------------------------------


def test_login_and_logout_by_keyboard(chromium, served, add):
    add()
    with window(chromium, served) as page:
        page.goto("/?night=2026-01-01")
        assert page.title().startswith("Log in")
        page.keyboard.type("kim")
        page.keyboard.press("Tab")
        page.keyboard.type(PASSWORD)
        page.keyboard.press("Enter")
        page.wait_for_url("**/?night=2026-01-01")
        assert page.get_by_text("kim").is_visible()
        page.get_by_role("button", name="Log out").press("Enter")
        page.wait_for_url("**/login")
        page.goto("/")
        assert page.title().startswith("Log in")


def test_page_script_sends_csrf_token(chromium, served):
    with window(chromium, served) as page:
        page.goto("/")
        ask = "fetch('/logout', {method: 'POST', redirect: 'manual'}).then(a => a.type)"
        assert page.evaluate(ask) == "opaqueredirect"
        page.evaluate("document.querySelector('meta[name=csrf]').content = 'x'")
        assert page.evaluate("fetch('/logout', {method: 'POST'}).then(a => a.status)") == 403
