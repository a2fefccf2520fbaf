"""The URL of a served model."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.imaging.errors import UsageError
from serving.client.url import ServerUrl


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("grpc://host", ("grpc", "host", 8500, "ich")),
        ("grpc://host/", ("grpc", "host", 8500, "ich")),
        ("grpcs://host:443/other", ("grpcs", "host", 443, "other")),
        ("http://10.0.0.7", ("http", "10.0.0.7", 8501, "ich")),
        ("HTTPS://a-b.example:8/x_1.2-3/", ("https", "a-b.example", 8, "x_1.2-3")),
        ("grpc://[::1]:9000/ich", ("grpc", "::1", 9000, "ich")),
    ],
)
def test_parts_and_what_stands_for_those_left_out(text: str, wanted: tuple[str, str, int, str]) -> None:
    url = ServerUrl.parse(text)
    assert (url.scheme, url.host, url.port, url.model) == wanted
    assert ServerUrl.parse(str(url)) == url
    assert url.encrypted == (wanted[0] in ("grpcs", "https"))


def test_addresses_of_six_are_in_brackets() -> None:
    assert ServerUrl.parse("grpc://[::1]").address == "[::1]:8500"
    assert ServerUrl.parse("grpc://h").address == "h:8500"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "scheme ''"),
        ("localhost:8500", "scheme 'localhost'"),
        ("ftp://host", "scheme 'ftp'"),
        ("grpc:///ich", "host ''"),
        ("grpc://", "host ''"),
        ("grpc://ho st", "host 'ho st'"),
        ("grpc://host:99999", "Port out of range"),
        ("grpc://host:no", "Port could not be cast"),
        ("grpc://host:0", "port 0"),
        ("grpc://[::1", "Invalid IPv6"),
        ("http://host:8501/v1/models/ich", "model 'v1/models/ich'"),
        ("http://host/ich:predict", "model 'ich:predict'"),
        ("http://host/../x", "model '../x'"),
        ("http://host/ich?x=1", "something after the model"),
        ("http://host/ich#x", "something after the model"),
    ],
)
def test_other_texts_are_refused(text: str, found: str) -> None:
    with pytest.raises(UsageError) as caught:
        ServerUrl.parse(text)
    assert str(caught.value).startswith(f"{text}: not the URL of a server")
    assert found in str(caught.value)
    assert "wanted grpc://HOST" in str(caught.value)


def test_a_password_is_not_repeated() -> None:
    with pytest.raises(UsageError, match="password") as caught:
        ServerUrl.parse("http://someone:secret@host")
    assert "secret" not in str(caught.value)


@given(st.text())
def test_any_text_is_a_url_or_refused(text: str) -> None:
    try:
        url = ServerUrl.parse(text)
    except UsageError:
        return
    assert ServerUrl.parse(str(url)) == url


@given(st.integers(1, 65535), st.from_regex(r"[a-z][a-z0-9_.-]{0,9}", fullmatch=True))
def test_ports_and_models_are_kept(port: int, model: str) -> None:
    url = ServerUrl.parse(f"http://host:{port}/{model}")
    assert (url.port, url.model) == (port, model)
