"""A bucket of an object store on this machine: a test takes the fixture `bucket`."""

import functools
import socket
from collections.abc import Iterator
from typing import Any

import pytest

BUCKET = "archive"


class Bucket:
    """A bucket of a local object store that can be switched off."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def inbox(self) -> str:
        return f'path = "s3://{BUCKET}/raw"\noptions.endpoint_url = "{self.url}"'

    def start(self) -> None:
        from moto.server import ThreadedMotoServer  # noqa: PLC0415 - slow to load

        self._server = ThreadedMotoServer("127.0.0.1", self.port, verbose=False)
        self._server.start()

    def stop(self) -> None:
        self._server.stop()
        # stop() leaves the port open, and who calls would wait for ever
        self._server._server.server_close()  # noqa: SLF001

    @functools.cached_property
    def client(self) -> Any:
        import boto3  # noqa: PLC0415 - slow to load

        return boto3.client("s3", endpoint_url=self.url, region_name="us-east-1")

    def put(self, key: str, content: bytes = b"frame") -> None:
        self.client.put_object(Bucket=BUCKET, Key=key, Body=content)


@pytest.fixture
def bucket(monkeypatch) -> Iterator[Bucket]:
    """Empty bucket, with its credentials in the environment."""
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(key, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    local_bucket = Bucket()
    local_bucket.client.create_bucket(Bucket=BUCKET)
    yield local_bucket
    stored = local_bucket.client.list_objects_v2(Bucket=BUCKET).get("Contents", [])
    for item in stored:
        local_bucket.client.delete_object(Bucket=BUCKET, Key=item["Key"])
    local_bucket.client.delete_bucket(Bucket=BUCKET)
    local_bucket.client.close()
    local_bucket.stop()
