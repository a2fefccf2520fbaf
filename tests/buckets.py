"""Servers on this machine with the APIs of S3 and of Google Cloud Storage, to test against."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import requests


@dataclass(frozen=True)
class Server:
    """A running one.

    Attributes:
        url: Its address.
        client: Boto's, to look at what is there by other code than that under test.
    """

    url: str
    client: Any

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which it is found."""
        return {
            "AWS_ENDPOINT_URL": self.url, "AWS_ACCESS_KEY_ID": "somebody", "AWS_SECRET_ACCESS_KEY": "wonderland",
            "AWS_EC2_METADATA_DISABLED": "true",
        }  # fmt: skip

    def bucket(self) -> Bucket:
        """A new, empty one."""
        name = f"bucket-{uuid.uuid4().hex[:8]}"
        self.client.create_bucket(Bucket=name)
        return Bucket(self, name)


@dataclass(frozen=True)
class Bucket:
    """An own bucket of a test."""

    server: Server
    name: str

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which it is found."""
        return self.server.environment

    def uri(self, path: str = "", scheme: str = "s3") -> str:
        """The URI of something in it."""
        return f"{scheme}://{self.name}/{path}".rstrip("/")

    def alias(self, path: str) -> str:
        """Another URI of the same."""
        return self.uri(path, scheme="minio")

    def names(self) -> list[str]:
        """Of all objects, without the empty ones that stand for folders."""
        pages = self.server.client.get_paginator("list_objects_v2").paginate(Bucket=self.name)
        found = [item["Key"] for page in pages for item in page.get("Contents", ())]
        return sorted(key for key in found if not key.endswith("/"))

    def fill(self, keys: Iterable[str]) -> None:
        """Writes empty objects, many of them: not over the network, which takes longer than all else."""
        from moto.s3.models import s3_backends

        for key in keys:
            s3_backends["123456789012"]["aws"].put_object(self.name, key, b"")

    def put(self, key: str, data: bytes = b"") -> None:
        """Writes an object."""
        self.server.client.put_object(Bucket=self.name, Key=key, Body=data)

    def get(self, key: str) -> bytes:
        """Reads one."""
        return bytes(self.server.client.get_object(Bucket=self.name, Key=key)["Body"].read())

    def delete(self, key: str) -> None:
        """Removes one."""
        self.server.client.delete_object(Bucket=self.name, Key=key)


@dataclass(frozen=True)
class GoogleBucket:
    """An own bucket of a test, on an emulator of Google Cloud Storage, spoken to by its JSON API.

    Attributes:
        url: The emulator's address.
        name: The bucket's.
    """

    url: str
    name: str

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which it is found."""
        return {"STORAGE_EMULATOR_HOST": self.url}

    def uri(self, path: str = "") -> str:
        """The URI of something in it."""
        return f"gs://{self.name}/{path}".rstrip("/")

    def alias(self, path: str) -> str:
        """There is no other."""
        return self.uri(path)

    def names(self) -> list[str]:
        """Of all objects, without the empty ones that stand for folders."""
        found = _ask("GET", f"{self.url}/storage/v1/b/{self.name}/o").json().get("items", ())
        return sorted(item["name"] for item in found if not item["name"].endswith("/"))

    def fill(self, keys: Iterable[str]) -> None:
        """Writes empty objects."""
        for key in keys:
            self.put(key)

    def put(self, key: str, data: bytes = b"") -> None:
        """Writes an object."""
        place = f"{self.url}/upload/storage/v1/b/{self.name}/o?uploadType=multipart"
        parts = [f"Content-Type: application/json\r\n\r\n{json.dumps({'name': key})}".encode(),
                 b"Content-Type: application/octet-stream\r\n\r\n" + data]  # fmt: skip
        body = b"".join(b"--part\r\n" + part + b"\r\n" for part in parts) + b"--part--\r\n"
        _ask("POST", place, data=body, headers={"Content-Type": "multipart/related; boundary=part"})

    def get(self, key: str) -> bytes:
        """Reads one."""
        return _ask("GET", f"{self._object(key)}?alt=media").content

    def delete(self, key: str) -> None:
        """Removes one."""
        _ask("DELETE", self._object(key))

    def _object(self, key: str) -> str:
        return f"{self.url}/storage/v1/b/{self.name}/o/{quote(key, safe='')}"


AnyBucket = Bucket | GoogleBucket


def _ask(method: str, url: str, **more: Any) -> requests.Response:
    """Past any proxy, on a connection of its own: the emulator serves one at a time."""
    with requests.Session() as session:
        session.trust_env = False
        answer = session.request(method, url, timeout=30, **{"headers": {}, **more})
    answer.raise_for_status()
    return answer


@contextmanager
def google_server() -> Iterator[str]:
    """Starts an emulator of Google Cloud Storage; its address."""
    from gcp_storage_emulator.server import create_server

    logging.getLogger("gcp_storage_emulator").setLevel(logging.ERROR)
    server = create_server("127.0.0.1", 0, in_memory=True)
    server.start()
    try:
        yield f"http://127.0.0.1:{server._api._httpd.server_port}"
    finally:
        server.stop()


def google_bucket(url: str) -> GoogleBucket:
    """A new, empty one."""
    name = f"bucket-{uuid.uuid4().hex[:8]}"
    _ask("POST", f"{url}/storage/v1/b?project=test", json={"name": name})
    return GoogleBucket(url, name)


@contextmanager
def s3_server() -> Iterator[Server]:
    """Starts one."""
    import boto3
    from botocore.config import Config
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield Server(
            f"http://{host}:{port}",
            boto3.client(
                "s3",
                endpoint_url=f"http://{host}:{port}",
                region_name="us-east-1",
                aws_access_key_id="somebody",
                aws_secret_access_key="wonderland",
                config=Config(proxies={}),
            ),
        )
    finally:
        server.stop()
