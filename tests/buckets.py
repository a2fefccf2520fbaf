"""A server on this machine with the API of S3, to test against."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


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

    def uri(self, path: str = "", scheme: str = "s3") -> str:
        """The URI of something in it."""
        return f"{scheme}://{self.name}/{path}".rstrip("/")

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
