"""Pages as a reader's program sees them: their elements and texts, and what they ask for."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from itertools import pairwise

VOID = {"meta", "link", "img", "input", "br", "hr"}


class Page(HTMLParser):
    """Elements, texts, and what is wrong with the structure."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def needs_nothing(html: str) -> None:
    """Asserts that a page holds all it shows: no reference to anything outside, and no script but an allowed one."""
    parsed = Page(html)
    assert all(not attributes for attributes in parsed.all("script"))
    for tag, attributes in parsed.elements:
        for name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster"):
            if name in attributes:
                assert attributes[name].startswith(("data:", "#")), (tag, attributes)
        assert not [name for name in attributes if name.startswith("on")]
    assert set(re.findall(r"https?://[^\s\"'<>]+", html)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"url\(|@import", html)
    policy = next(item["content"] for item in parsed.all("meta") if item.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    hashes = [
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        for text in re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    ]
    assert len(hashes) == len(parsed.all("script")) and all(source in policy for source in hashes)
    assert "unsafe-inline" not in policy.partition("script-src")[2]


def is_accessible(html: str) -> None:
    """Asserts headings in order, landmarks, names of pictures and charts, unique ids, and scrolling by keyboard."""
    parsed = Page(html)
    levels = [int(tag[1]) for tag, _ in parsed.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in pairwise(levels))
    assert {"header", "nav", "main", "footer"} <= {tag for tag, _ in parsed.elements}
    assert parsed.all("html") == [{"lang": "en"}]
    assert all(image.get("alt") for image in parsed.all("img"))
    assert all(item["aria-label"] for item in parsed.all("div") if item.get("role") == "img")
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [item["href"][1:] for item in parsed.all("a")]
    assert links and set(links) <= set(ids)
    scrolled = [item for item in parsed.all("div") if item.get("class") == "scroll"]
    assert scrolled and all(item["tabindex"] == "0" and item["role"] == "region" for item in scrolled)
    assert all(item.get("aria-label") or item.get("aria-labelledby") in ids for item in scrolled)
    labelled = {item["for"] for item in parsed.all("label")}
    assert labelled == {item["id"] for item in parsed.all("input")}
