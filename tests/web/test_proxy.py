"""Authentication and cookies behind a real reverse proxy with TLS."""

import logging
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from threading import Thread
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from qc import db
from qc.core.enums import Role
from qc.db.schema.models import LabelRow
from qc.settings import WebSettings
from tests.support.browser import Served, serving, window
from tests.support.verdict_rows import StoredExtension, add_extensions
from tests.support.waiting import wait_for_end

PASSWORD = "echelle-390"
PROXY = "127.0.0.9"  # from where it asks; others of this machine ask from 127.0.0.1
HEADER = "X-Remote-User"
HOPS = {"connection", "transfer-encoding", "keep-alive", "content-length"}


class Proxy(BaseHTTPRequestHandler):
    """Reverse proxy that adds the forwarding headers of nginx."""

    protocol_version = "HTTP/1.1"
    port = 0
    person = ""  # authenticated user

    def pass_on(self) -> None:
        headers = {
            k: v for k, v in self.headers.items() if k.lower() not in HOPS | {HEADER.lower()}
        }
        came = self.headers.get("X-Forwarded-For", "")
        headers["X-Forwarded-For"] = ", ".join(filter(None, [came, self.client_address[0]]))
        headers["X-Forwarded-Proto"] = "https"
        if self.person:
            headers[HEADER] = self.person
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        connection = HTTPConnection("127.0.0.1", self.port, source_address=(PROXY, 0), timeout=60)
        connection.request(self.command, self.path, body or None, headers)
        answer = connection.getresponse()
        content = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in HOPS:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        connection.close()

    do_GET = do_POST = do_DELETE = pass_on  # noqa: N815 - the base class names them so

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate of this machine's own, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + signed.public_bytes(serialization.Encoding.PEM)
    )
    return path


@contextmanager
def proxied(project, certificate, person: str = "", **web: Any) -> Iterator[tuple[Served, str]]:
    """Serve a project, and before it a proxy over TLS; give both addresses."""
    settings = project.settings.model_copy(
        update={"web": WebSettings(trusted_proxies=(PROXY,), **web)}
    )
    object.__setattr__(project, "settings", settings)
    with serving(project) as inner:
        port = int(inner.url.rpartition(":")[2])
        handler = type("Here", (Proxy,), {"port": port, "person": person})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield Served(project, f"https://127.0.0.1:{server.server_address[1]}"), inner.url
        finally:
            server.shutdown()
            server.server_close()
            wait_for_end(thread)


@pytest.fixture
def add(project):
    def somebody(name: str, role: Role = Role.REVIEW) -> str:
        with project.write_session.begin() as session:
            db.accounts.add_account(session, name, role, PASSWORD, datetime.now(UTC))
        return name

    return somebody


def client_of(certificate, url: str, address: str = "127.0.0.1") -> httpx.Client:
    """Return a client that connects from an address of this machine."""
    context = ssl.create_default_context(cafile=certificate)
    transport = httpx.HTTPTransport(verify=context, local_address=address)
    return httpx.Client(base_url=url, transport=transport, timeout=60)


def try_to_log_in(client: httpx.Client, password: str, **headers: str) -> httpx.Response:
    page = client.get("/login").text
    token = page.partition('name="csrf" content="')[2][:64]
    data = {"name": "kim", "password": password, "csrf": token}
    return client.post("/login", data=data, headers={"Sec-Fetch-Site": "same-origin"} | headers)


def test_user_header_counts_from_proxy_only(project, certificate, add):
    add("kim")
    add("ann", Role.TUNE)
    with proxied(project, certificate, "kim", trusted_header=HEADER) as (outer, inner):
        with client_of(certificate, outer.url) as client:
            for forged in ({}, {HEADER: "ann"}):
                assert '<span class="user">kim</span>' in client.get("/", headers=forged).text
        with httpx.Client(base_url=inner) as client:
            for forged in ({}, {HEADER: "ann"}, {HEADER: "ann", "X-Forwarded-For": PROXY}):
                answer = client.get("/", headers=forged)
                assert (answer.status_code, answer.headers["location"]) == (303, "/login?to=/")
                assert client.get("/api/v1/tonight", headers=forged).status_code == 401


def test_rate_limit_applies_to_browser_address(project, certificate, add):
    add("kim")
    with proxied(project, certificate) as (outer, _):
        with client_of(certificate, outer.url, "127.0.0.2") as guesser:
            for number in range(db.accounts.MOST_OF_BOTH):
                forged = {"X-Forwarded-For": f"192.0.2.{number}"}
                assert (
                    "Invalid user name" in try_to_log_in(guesser, "wrong-password", **forged).text
                )
            refused = try_to_log_in(guesser, PASSWORD, **{"X-Forwarded-For": "192.0.2.99"})
            assert "try again in" in refused.text
        with client_of(certificate, outer.url, "127.0.0.3") as owner:
            assert try_to_log_in(owner, PASSWORD).status_code == 303


def test_secrets_behind_tls(chromium, project, certificate, add, caplog):
    caplog.set_level(logging.DEBUG, "qc")
    caplog.set_level(logging.DEBUG, "uvicorn")
    add("kim")
    add_extensions(project, StoredExtension())
    with (
        proxied(project, certificate) as (outer, _),
        window(chromium, outer, ignore_https_errors=True) as page,
    ):
        addresses: list[str] = []
        page.on("request", lambda request: addresses.append(request.url))
        page.goto("/review?labelled=any")
        page.get_by_label("User name").fill("kim")
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Log in").click()
        page.wait_for_url("**/review?labelled=any")
        page.wait_for_selector("body[data-ready]")
        page.keyboard.press("1")
        page.wait_for_selector('body[data-unsent="0"]')
        cookies = page.context.cookies()
        token = page.locator("meta[name=csrf]").get_attribute("content") or ""
    assert len(token) == 64
    with project.read_session() as session:
        assert session.query(LabelRow).one().who == "kim"
    assert {item["name"] for item in cookies} == {"qc_session", "qc_browser"}
    assert all(item["secure"] and item["httpOnly"] for item in cookies)
    secrets = [PASSWORD, token, *(item["value"] for item in cookies)]
    texts = [*addresses, *(str(vars(record)) for record in caplog.records)]
    assert [text for text in texts for secret in secrets if secret in text] == []
    assert any(getattr(record, "address", "") == "127.0.0.1" for record in caplog.records)
