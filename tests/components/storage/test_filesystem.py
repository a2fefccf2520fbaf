"""Objects as files, by the calls that TFX's file-system layer has; what is there is looked at by other code."""

from __future__ import annotations

import errno
import io
import json
import os
import time
from collections.abc import Callable
from typing import Any

import pytest
from tfx.dsl.io import fileio, filesystem_registry
from tfx.dsl.io.filesystem import NotFoundError

from components.imaging.errors import IchError, UsageError
from components.storage import connection
from components.storage.connection import BucketError, locate
from components.storage.filesystem import Bucket as Plugin
from components.storage.filesystem import entries
from tests.buckets import AnyBucket, Bucket

NAMES = [
    "plain",
    "with space",
    "ümlaut/Füße 2",
    "a+b=c&d#e%20?",
    "100%",
    "no-archive.gz",
    "nor-this.bz2",
    "[x]*",
    "日本",
]


@pytest.mark.parametrize("scheme", ["s3", "gs", "minio"])
def test_tfx_takes_it_for_buckets_and_nothing_else(scheme: str) -> None:
    registry = filesystem_registry.DEFAULT_FILESYSTEM_REGISTRY
    assert registry.get_filesystem_for_path(f"{scheme}://b/x") is Plugin
    assert registry.get_filesystem_for_path("/tmp/x") is not Plugin
    assert registry.get_filesystem_for_path("ram://x") is not Plugin


@pytest.mark.parametrize("name", NAMES)
def test_whatever_the_name_the_same_object_is_meant(bucket: AnyBucket, name: str) -> None:
    uri = bucket.uri(f"folder/{name}")
    with fileio.open(uri, "wb") as file:
        file.write(b"content")
    assert bucket.names() == [f"folder/{name}"]
    assert fileio.exists(uri)
    with fileio.open(uri, "rb") as file:
        assert file.read() == b"content"
    first = name.partition("/")[0]
    assert fileio.listdir(bucket.uri("folder")) == [first if first == name else f"{first}/"]
    assert [entry.name for entry in entries(bucket.uri("folder"))] == [name]
    fileio.remove(uri)
    assert bucket.names() == [] and not fileio.exists(uri)


@pytest.mark.parametrize("size", [0, 1, 9 << 20])
def test_any_size_comes_back(bucket: AnyBucket, size: int) -> None:
    data = os.urandom(size)
    with fileio.open(bucket.uri("x"), "wb") as file:
        file.write(data[: size // 2])
        file.write(data[size // 2 :])
        assert file.tell() == size
        assert bucket.names() == []
    assert bucket.get("x") == data
    with fileio.open(bucket.uri("x"), "rb") as file:
        assert file.read() == data
    assert fileio.stat(bucket.uri("x")).length == size


def test_text_is_utf_8_and_keeps_its_line_ends(bucket: AnyBucket) -> None:
    text = "é\r\nzwei\n"
    with fileio.open(bucket.uri("x"), "w") as file:
        file.write(text)
    assert bucket.get("x") == text.encode()
    with fileio.open(bucket.uri("x")) as file:
        assert isinstance(file, io.TextIOBase) and file.readline() == "é\n"
    with fileio.open(bucket.uri("j"), "w") as file:
        json.dump({"a": 1}, file)
    with fileio.open(bucket.uri("j"), "r") as file:
        assert json.load(file) == {"a": 1}


def test_what_was_broken_off_is_not_written_and_the_old_one_stays(bucket: AnyBucket) -> None:
    bucket.put("x", b"old")
    for name in ("x", "y"):
        with pytest.raises(KeyError), fileio.open(bucket.uri(name), "wb") as file:
            file.write(b"new" * 4_000_000)
            raise KeyError
    left = fileio.open(bucket.uri("z"), "wb")
    left.write(b"half")
    del left
    assert bucket.names() == ["x"] and bucket.get("x") == b"old"


def test_what_is_not_there(bucket: AnyBucket) -> None:
    gone = bucket.uri("no/such")
    calls: list[Callable[[], Any]] = [
        lambda: fileio.open(gone, "rb"), lambda: fileio.open(gone), lambda: fileio.copy(gone, bucket.uri("x")),
        lambda: fileio.listdir(gone), lambda: fileio.remove(gone), lambda: fileio.rename(gone, bucket.uri("x")),
        lambda: fileio.rmtree(gone), lambda: fileio.stat(gone), lambda: entries(gone),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(NotFoundError, match=gone):
            call()
    assert not fileio.exists(gone) and not fileio.isdir(gone)
    assert fileio.glob(f"{gone}/*") == [] and list(fileio.walk(gone)) == []
    assert bucket.names() == []


def test_copies_and_moves(bucket: AnyBucket) -> None:
    bucket.put("a/one", b"1")
    bucket.put("a/deep/two", b"2")
    fileio.copy(bucket.uri("a/one"), bucket.uri("b/one"))
    assert bucket.get("b/one") == b"1"
    for call in (fileio.copy, fileio.rename):
        with pytest.raises(OSError, match="is there already"):
            call(bucket.uri("a/deep/two"), bucket.uri("b/one"))
    fileio.copy(bucket.uri("a/deep/two"), bucket.uri("b/one"), overwrite=True)
    assert bucket.get("b/one") == b"2"
    fileio.copy(bucket.uri("a/one"), bucket.alias("other"))
    fileio.rename(bucket.uri("other"), bucket.uri("b/one"), overwrite=True)
    assert bucket.get("b/one") == b"1" and "other" not in bucket.names()
    fileio.rename(bucket.uri("a"), bucket.uri("c/d"))
    assert bucket.names() == ["b/one", "c/d/deep/two", "c/d/one"]
    fileio.rmtree(bucket.uri("c"))
    assert bucket.names() == ["b/one"]


def test_files_go_to_and_fro(bucket: AnyBucket, tmp_path: Any) -> None:
    (tmp_path / "here").write_bytes(b"1")
    fileio.copy(str(tmp_path / "here"), bucket.uri("there"))
    fileio.copy(bucket.uri("there"), str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == b"1"


def test_folders_are_what_names_have_in_common(bucket: AnyBucket) -> None:
    fileio.makedirs(bucket.uri("made/deep"))
    fileio.mkdir(bucket.uri("made"))
    for key in ("a/one", "a/b/two", "ab", "a/b/c/three"):
        bucket.put(key)
    bucket.put("marker/")  # as consoles make an empty folder
    assert fileio.isdir(bucket.uri("a")) and fileio.isdir(bucket.uri("a/b")) and fileio.isdir(bucket.uri())
    assert not fileio.isdir(bucket.uri("ab")) and not fileio.isdir(bucket.uri("a/one"))
    assert fileio.listdir(bucket.uri("a")) == ["b/", "one"] == fileio.listdir(bucket.uri("a/"))
    assert fileio.listdir(bucket.uri()) == ["a/", "ab", "marker/"]
    assert fileio.listdir(bucket.uri("marker")) == []
    top = bucket.uri("a")
    assert list(fileio.walk(top)) == [
        (top, ["b"], ["one"]), (f"{top}/b", ["c"], ["two"]), (f"{top}/b/c", [], ["three"])
    ]  # fmt: skip
    assert [folder for folder, *_ in fileio.walk(top, topdown=False)] == [f"{top}/b/c", f"{top}/b", top]
    found = fileio.stat(bucket.uri("a/one"))
    assert not found.is_directory and abs(found.mtime_nsec / 1e9 - time.time()) < 600
    assert fileio.stat(top).is_directory


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("*/record.json", ["a/record.json", "b/record.json"]),
        ("a/*", ["a/deep", "a/record.json"]),
        ("*", ["a", "b", "top.json"]),
        ("?op.json", ["top.json"]),
        ("[ab]/deep/*.json", ["a/deep/record.json"]),
        ("a/record.json", ["a/record.json"]),
        ("a/none", []),
        ("*/*/*/*", []),
    ],
)
def test_a_star_stands_for_no_slash(bucket: AnyBucket, pattern: str, wanted: list[str]) -> None:
    for key in ("a/record.json", "b/record.json", "a/deep/record.json", "top.json"):
        bucket.put(f"root/{key}")
    assert fileio.glob(bucket.uri(f"root/{pattern}")) == [bucket.uri(f"root/{name}") for name in wanted]


def test_more_objects_than_a_page_holds(s3_bucket: Bucket) -> None:
    names = [f"{number:04d}" for number in range(1005)]
    s3_bucket.fill(f"many/{name}" for name in names)
    assert fileio.listdir(s3_bucket.uri("many")) == names
    assert [entry.name for entry in entries(s3_bucket.uri("many"))] == names
    fileio.rmtree(s3_bucket.uri("many"))
    assert s3_bucket.names() == []


def test_a_whole_bucket_is_not_removed(bucket: AnyBucket) -> None:
    bucket.put("x")
    with pytest.raises(UsageError, match="whole bucket"):
        fileio.rmtree(bucket.uri())
    assert bucket.names() == ["x"]


def test_another_bucket_than_there_is(s3_bucket: Bucket) -> None:
    uri = "s3://no-such-bucket/x"
    for call in (lambda: entries(uri), lambda: fileio.open(uri, "w").close()):
        with pytest.raises(
            BucketError, match=rf"{uri}: found NO_SUCH_BUCKET.*{s3_bucket.server.url}.*AWS_ENDPOINT_URL"
        ):
            call()


def test_credentials_that_are_not_known(s3_bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    s3_bucket.put("x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-that-is-wrong")
    monkeypatch.setattr("moto.settings.INITIAL_NO_AUTH_ACTION_COUNT", 0.0)  # from now on it looks at them
    for call in (lambda: entries(s3_bucket.uri()), lambda: fileio.open(s3_bucket.uri("x"), "w").close(),
                 lambda: fileio.open(s3_bucket.uri("x")), lambda: fileio.exists(s3_bucket.uri("x"))):  # fmt: skip
        with pytest.raises(BucketError, match=rf"{s3_bucket.uri()}.*AWS_ACCESS_KEY_ID.*kubeflow\.secrets") as caught:
            call()
        assert "a-secret" not in str(caught.value) and "somebody" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["s3", "minio", "gs"])
def test_a_server_that_does_not_answer(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variable = "STORAGE_EMULATOR_HOST" if scheme == "gs" else "AWS_ENDPOINT_URL_S3"
    monkeypatch.setenv(variable, "http://127.0.0.1:9")  # nobody listens at it
    monkeypatch.setattr(connection, "_RETRY_SECONDS", 1)
    began = time.monotonic()
    with pytest.raises(IchError, match=rf"{scheme}://b/x: found .* at http://127.0.0.1:9, wanted .*{variable}"):
        fileio.exists(f"{scheme}://b/x")
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("value", "shown"),
    [("ftp://x", "ftp://x"), ("http://x/path", "http://x/path"), ("http://me:pass@x", "an address with a user name")],
)
def test_an_address_that_is_none(value: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", value)
    with pytest.raises(UsageError, match=f"AWS_ENDPOINT_URL_S3: found {shown}, wanted http://HOST:PORT"):
        fileio.exists("s3://b/x")


@pytest.mark.parametrize("uri", ["s3://", "gs:///", "minio://"])
def test_a_uri_without_a_bucket(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="names no bucket"):
        fileio.exists(uri)


def test_where_minio_is_found_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    assert connection.endpoint("minio") == "http://minio-service.kubeflow:9000"
    assert connection.endpoint("s3") is None


def test_google_is_asked_by_its_own_client_and_an_emulator_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    from pyarrow import fs

    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "localhost:4443")
    found, path = locate("gs://bucket/a//b/")
    assert isinstance(found, fs.GcsFileSystem) and path == "bucket/a/b"
    assert connection.endpoint("gs") == "http://localhost:4443"
    again, _ = locate("gs://other")
    assert again is found


def test_a_full_disk_here_is_not_taken_for_a_fault_there(bucket: AnyBucket, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    bucket.put("x")
    monkeypatch.setattr("components.storage.filesystem.shutil.copyfileobj", fail)
    with pytest.raises(OSError, match="No space left") as caught:
        fileio.open(bucket.uri("x"))
    assert caught.value.errno == errno.ENOSPC


def test_a_fork_has_a_connection_of_its_own(bucket: AnyBucket) -> None:
    """TFX's runners and Beam fork; what the parent's threads did is nothing the child can wait for."""
    bucket.put("x", b"1")
    assert fileio.exists(bucket.uri("x"))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with fileio.open(bucket.uri("x"), "rb") as file:
                copied = file.read()
            with fileio.open(bucket.uri("y"), "wb") as file:
                file.write(copied)
            code = 0
        finally:
            os._exit(code)
    deadline = time.monotonic() + 60
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.05)
    if ended == (0, 0):
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert ended == (child, 0) and bucket.get("y") == b"1"


def test_nothing_is_written_in_another_mode(bucket: AnyBucket) -> None:
    with pytest.raises(ValueError, match="found mode 'a'"):
        fileio.open(bucket.uri("x"), "a")
