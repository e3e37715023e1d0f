import logging
import re
from datetime import UTC, datetime, timedelta

import pytest
from fastapi import APIRouter
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from qc import db
from qc.core.enums import Role
from qc.db.models import FailedLoginRow, SessionKeyRow
from qc.errors import AuthenticationError, ConfigurationError, InvalidInputError
from qc.settings import WebSettings
from qc.web.app import create_app
from qc.web.auth import Anybody, Reviewer, Tuner
from qc.web.server import check_reach
from tests.support.browser import routes_of, window

NOW = datetime(2026, 1, 2, 9, tzinfo=UTC)
PASSWORD = "echelle-390"
OTHER_SITE = {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}
OWN_SITE = {"Sec-Fetch-Site": "same-origin"}

router = APIRouter()


@router.get("/look")
def look(who: Anybody) -> str:
    return f"{who.name} {who.role.name}"


@router.post("/review")
def review(who: Reviewer) -> str:
    return who.name


@router.post("/tune")
def tune(who: Tuner) -> str:
    return who.name


@router.post("/api/v1/review")
def review_by_script(who: Reviewer) -> str:
    return who.name


class Clock:
    """Tells the time that a test wants it to be."""

    def __init__(self) -> None:
        self.at = NOW

    def __call__(self) -> datetime:
        return self.at


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def ask(project, clock):
    """Return a browser that asks for pages, from this machine unless told otherwise."""

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
    """Add somebody, and return the name."""

    def somebody(name: str = "kim", role: Role = Role.REVIEW) -> str:
        with project.writes.begin() as session:
            db.accounts.add_account(session, name, role, PASSWORD, NOW)
        return name

    return somebody


def mark_of(client: TestClient, path: str = "/login") -> str:
    found = re.search(r'name="csrf" content="([0-9a-f]{64})"', client.get(path).text)
    assert found
    return found[1]


def log_in(client: TestClient, name: str = "kim", password: str = PASSWORD, **more: str):
    data = {"name": name, "password": password, "csrf": mark_of(client)} | more
    return client.post("/login", data=data, headers=OWN_SITE)


# --- without accounts -----------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "localhost:8765"])
def test_without_accounts_this_machine_may_do_everything(ask, host):
    client = ask(host=host)
    assert client.get("/look").json().endswith("TUNE")
    assert client.post("/tune").status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "10.0.0.7", "127.0.0.1@evil"]
)
def test_a_name_of_another_host_that_leads_here_is_refused(ask, host):
    client = ask()
    assert client.get("/look", headers={"Host": host}).status_code == 403


def test_another_machine_is_refused_whatever_it_calls_us(ask):
    refusal = ask(peer="10.0.0.7").get("/look")
    assert refusal.status_code == 403
    assert "qc user add" in refusal.text


def test_what_a_proxy_brings_is_refused_without_accounts(ask):
    client = ask()
    assert client.get("/look", headers={"X-Forwarded-For": "10.0.0.7"}).status_code == 403


def test_serving_others_needs_an_account(project, add):
    check_reach(project, "127.0.0.1")
    check_reach(project, "::1")
    for host in ("0.0.0.0", "::", "qc.example.org"):
        with pytest.raises(ConfigurationError, match="qc user add NAME"):
            check_reach(project, host)
    add()
    check_reach(project, "0.0.0.0")


def test_a_page_of_another_host_changes_nothing_though_nobody_logs_in_here(ask):
    client = ask()
    assert client.post("/tune", headers=OTHER_SITE).status_code == 403
    assert client.post("/tune", headers={"Origin": "https://evil.example"}).status_code == 403
    assert client.post("/tune", headers=OWN_SITE).status_code == 403
    marked = OWN_SITE | {"X-CSRF-Token": mark_of(client)}
    assert client.post("/tune", headers=marked).status_code == 200
    assert client.post("/tune", headers=marked | OTHER_SITE).status_code == 403


# --- accounts -------------------------------------------------------------------------------------


def test_a_name_or_a_password_that_will_not_do_is_told(project, add):
    add()
    with project.writes.begin() as session:
        for name, password, words in (
            ("kim", PASSWORD, "already"),
            ("a b", PASSWORD, "expected letters"),
            ("<b>", PASSWORD, "expected letters"),
            ("ann", "short", "10 to 1024"),
        ):
            with pytest.raises(InvalidInputError, match=words):
                db.accounts.add_account(session, name, Role.LOOK, password, NOW)
        with pytest.raises(InvalidInputError, match="no account 'nobody'"):
            db.accounts.remove_account(session, "nobody")


@pytest.mark.sqlite
def test_nothing_that_opens_anything_is_stored(project, add, project_folder):
    add()
    key = db.accounts.log_in(project.writes, "kim", PASSWORD, "10.0.0.7", NOW, timedelta(hours=1))
    with project.writes.begin() as session:
        token = db.accounts.make_token(session, "kim", NOW)
    project.engine.dispose()
    stored = b"".join(path.read_bytes() for path in project_folder.glob("qc.db*"))
    assert not any(secret.encode() in stored for secret in (PASSWORD, key, token))
    assert b"$argon2id$" in stored


def test_a_role_includes_those_before_it():
    assert [[one.includes(other) for other in Role] for one in Role] == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]


# --- login ----------------------------------------------------------------------------------------


def test_with_accounts_a_stranger_sees_the_login_and_nothing_else(ask, add):
    add()
    client = ask()
    answer = client.get("/look?night=2026-01-01")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/login?to=/look%3Fnight%3D2026-01-01"
    assert client.get("/api/v1/nothing").status_code == 401
    assert client.get("/api/openapi.json").status_code == 401
    assert client.post("/review").status_code == 401
    assert client.get("/static/pages.css").status_code == 200


def test_whoever_logs_in_comes_to_the_page_that_was_asked_for(ask, add):
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
def test_the_login_leads_to_no_other_host(ask, add, to):
    add()
    assert log_in(ask(), to=to).headers["location"] == "/"


def test_a_session_ends_with_its_time_or_the_logout(ask, add, clock, project):
    add()
    client = ask(session_h=2)
    log_in(client)
    clock.at = NOW + timedelta(hours=2, seconds=1)
    assert client.get("/look").status_code == 303
    log_in(client)
    kept = client.cookies["qc_session"]
    marked = OWN_SITE | {"X-CSRF-Token": mark_of(client, "/")}
    assert client.post("/logout", headers=marked).headers["location"] == "/login"
    assert client.get("/look", headers={"Cookie": f"qc_session={kept}"}).status_code == 303
    with project.reads() as session:
        assert session.query(SessionKeyRow).count() == 0


def test_who_is_removed_or_has_another_password_is_out_at_once(ask, add, project):
    add()
    client = ask()
    log_in(client)
    with project.writes.begin() as session:
        db.accounts.change_password(session, "kim", "another-password")
    assert client.get("/look").status_code == 303
    assert log_in(client).status_code == 403
    assert log_in(client, password="another-password").status_code == 303
    add("ann")
    with project.writes.begin() as session:
        db.accounts.remove_account(session, "kim")
    assert client.get("/look").status_code == 303


def test_a_wrong_password_and_an_unknown_name_are_refused_alike(ask, add):
    add()
    client = ask()
    answers = [
        log_in(client, "kim", "wrong-password"),
        log_in(client, "nobody"),
        log_in(client, "\x00"),
    ]
    assert {one.status_code for one in answers} == {403}
    assert all("name and password do not fit" in one.text for one in answers)


def test_too_many_wrong_passwords_are_put_off_for_that_address_alone(ask, add, clock):
    add()
    client, owner = ask(peer="10.0.0.7"), ask(peer="10.0.0.8")
    for _ in range(db.accounts.MOST_OF_BOTH):
        assert "do not fit" in log_in(client, password="wrong-password").text
    refused = log_in(client)
    assert refused.status_code == 403
    assert "try again in 15 minutes" in refused.text
    assert log_in(owner).status_code == 303
    clock.at = NOW + db.accounts.WINDOW + timedelta(seconds=1)
    assert log_in(client).status_code == 303


def test_an_address_that_tries_many_names_is_put_off_too(project, add):
    add()
    with project.writes.begin() as session:
        session.add_all(
            FailedLoginRow(name_digest=str(n), address="10.0.0.7", at=NOW)
            for n in range(db.accounts.MOST_OF_ADDRESS)
        )
    with pytest.raises(AuthenticationError, match="too many"):
        db.accounts.log_in(project.writes, "kim", PASSWORD, "10.0.0.7", NOW, timedelta(hours=1))


def test_tries_are_logged_without_what_was_typed(ask, add, caplog):
    add()
    client = ask(peer="10.0.0.7")
    with caplog.at_level(logging.INFO, "qc.accounts"):
        log_in(client, password="wrong-password")
        log_in(client, "my-secret-password")
        log_in(client)
    told = [(one.message, one.account, one.address) for one in caplog.records]
    assert told == [
        ("login refused", "kim", "10.0.0.7"),
        ("login refused", "unknown", "10.0.0.7"),
        ("login", "kim", "10.0.0.7"),
    ]
    facts = str([vars(one) for one in caplog.records])
    assert not any(word in facts for word in ("wrong-password", "my-secret-password", PASSWORD))


def test_a_login_from_another_host_is_refused(ask, add):
    add()
    client = ask()
    data = {"name": "kim", "password": PASSWORD, "csrf": "0" * 64}
    assert client.post("/login", data=data, headers=OWN_SITE).status_code == 403
    data["csrf"] = mark_of(client)
    assert client.post("/login", data=data, headers=OTHER_SITE).status_code == 403


# --- what somebody may do -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("role", "review", "tune"),
    [(Role.LOOK, 403, 403), (Role.REVIEW, 200, 403), (Role.TUNE, 200, 200)],
)
def test_nobody_does_more_than_the_role_allows(ask, add, role, review, tune):
    add(role=role)
    client = ask()
    log_in(client)
    marked = OWN_SITE | {"X-CSRF-Token": mark_of(client, "/")}
    assert client.get("/look").status_code == 200
    assert client.post("/review", headers=marked).status_code == review
    assert client.post("/tune", headers=marked).status_code == tune


def test_a_session_changes_nothing_without_the_mark_of_our_own_page(ask, add):
    add()
    client = ask()
    log_in(client)
    mark = mark_of(client, "/")
    assert client.post("/review").status_code == 403
    assert client.post("/review", data={"csrf": "0" * 64}).status_code == 403
    assert client.post("/review", data={}).status_code == 403
    assert client.post("/review", headers={"X-CSRF-Token": ""}).status_code == 403
    assert client.post("/review", data={"csrf": mark}).status_code == 200
    assert client.post("/review", headers={"X-CSRF-Token": mark}).status_code == 200
    assert client.post("/review", data={"csrf": mark}, headers=OTHER_SITE).status_code == 403


def test_the_mark_of_one_session_is_none_for_another(ask, add):
    add()
    add("ann")
    first, second = ask(), ask()
    log_in(first)
    log_in(second, "ann")
    assert second.post("/review", data={"csrf": mark_of(first, "/")}).status_code == 403


def test_every_way_to_change_something_is_behind_the_mark(ask):
    client = ask()
    ways = [
        (method, re.sub("{[a-z_]+}", "1", one.path))
        for one in routes_of(client.app)
        if isinstance(one, APIRoute)
        for method in sorted((one.methods or set()) - {"GET"})
    ]
    assert len(ways) > 10
    for method, path in ways:
        for headers in (OWN_SITE, OTHER_SITE):
            form = {} if method == "DELETE" else {"data": {"csrf": "0" * 64}}
            answer = client.request(method, path, headers=headers, **form)
            assert (answer.status_code, "nothing was changed" in answer.text) == (403, True), path


def test_a_token_opens_the_api_to_scripts_and_no_page(ask, add, project):
    add()
    with project.writes.begin() as session:
        token = db.accounts.make_token(session, "kim", NOW)
    client = ask(peer="10.0.0.7")
    bearer = {"Authorization": f"Bearer {token}"}
    assert client.post("/api/v1/review", headers=bearer).json() == "kim"
    assert client.post("/review", headers=bearer).status_code == 401
    wrong = client.post("/api/v1/review", headers={"Authorization": "Bearer qc_nothing"})
    assert (wrong.status_code, wrong.headers["www-authenticate"]) == (401, "Bearer")
    with project.writes.begin() as session:
        assert db.accounts.revoke_tokens(session, "kim") == 1
    assert client.post("/api/v1/review", headers=bearer).status_code == 401


def test_a_session_is_no_token_and_a_token_no_session(ask, add, project):
    add()
    client = ask()
    log_in(client)
    bearer = {"Authorization": f"Bearer {client.cookies['qc_session']}"}
    assert ask().get("/api/v1/nothing", headers=bearer).status_code == 401
    with project.writes.begin() as session:
        token = db.accounts.make_token(session, "kim", NOW)
    assert ask().get("/look", headers={"Cookie": f"qc_session={token}"}).status_code == 303


# --- behind a proxy -------------------------------------------------------------------------------

PROXY = {"trusted_header": "X-Remote-User", "trusted_proxies": ("10.1.0.0/16",)}


def test_a_proxys_word_counts_and_nobody_elses(ask, add):
    add()
    said = {"X-Remote-User": "kim"}
    assert ask(peer="10.1.0.3", **PROXY).get("/look", headers=said).json() == "kim REVIEW"
    assert ask(peer="10.0.0.7", **PROXY).get("/look", headers=said).status_code == 303
    unknown = {"X-Remote-User": "eve"}
    assert ask(peer="10.1.0.3", **PROXY).get("/look", headers=unknown).status_code == 403
    assert ask(peer="10.1.0.3", **PROXY).get("/look").status_code == 403


def test_behind_a_proxy_without_accounts_nobody_is_let_in(ask):
    assert ask(peer="127.0.0.1", **PROXY).get("/look").status_code == 303


def test_behind_tls_cookies_travel_in_no_other_way(ask, add):
    add()
    client = ask(peer="10.1.0.3", trusted_proxies=("10.1.0.0/16",))
    answer = client.get("/login", headers={"X-Forwarded-Proto": "https"})
    assert "Secure" in answer.headers["set-cookie"]
    told = ask(peer="10.0.0.7").get("/login", headers={"X-Forwarded-Proto": "https"})
    assert "Secure" not in told.headers["set-cookie"]


def test_a_proxy_tells_from_which_address_somebody_tries(ask, add, caplog):
    add()
    client = ask(peer="10.1.0.3", trusted_proxies=("10.1.0.3",))
    data = {"name": "kim", "password": "wrong-password", "csrf": mark_of(client)}
    with caplog.at_level(logging.INFO, "qc.accounts"):
        client.post("/login", data=data, headers={"X-Forwarded-For": "6.6.6.6, 192.0.2.7"})
    assert [one.address for one in caplog.records] == ["192.0.2.7"]


# --- bounds ---------------------------------------------------------------------------------------


def test_a_body_is_bounded_told_or_untold(ask):
    client = ask()
    block = b"a=" + b"x" * 2**20
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    assert client.post("/login", content=block * 3, headers=kind).status_code == 413
    assert client.post("/login", content=iter([block] * 3), headers=kind).status_code == 413


# --- in a browser ---------------------------------------------------------------------------------


def test_somebody_logs_in_and_out_with_the_keyboard(chromium, served, add):
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


def test_a_script_of_our_page_carries_the_mark_and_one_of_another_host_is_refused(chromium, served):
    with window(chromium, served) as page:
        page.goto("/")
        ask = "fetch('/logout', {method: 'POST', redirect: 'manual'}).then(a => a.type)"
        assert page.evaluate(ask) == "opaqueredirect"
        page.evaluate("document.querySelector('meta[name=csrf]').content = 'x'")
        assert page.evaluate("fetch('/logout', {method: 'POST'}).then(a => a.status)") == 403
