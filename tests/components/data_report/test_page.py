"""The page: escaping, structure, what it says of nothing, no reference to anything outside, its size."""

from __future__ import annotations

import base64
import json
import os
from typing import Any

import pytest

from components.data_report.content import collect
from components.data_report.page import alt_text, render
from components.pages.html import number, percent
from tests.components.data_report.listings import finding, listing, quarantined, random_cohort, record, tile
from tests.pages import Page, is_accessible, needs_nothing

EVIL = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>&amp;"
MIB = 1024 * 1024


def page(data: dict[str, Any], findings: Any = (), **more: Any) -> tuple[str, Page]:
    """HTML, and the same parsed."""
    html = render(collect(data, findings, name="demo", **more))
    return html, Page(html)


def full() -> tuple[str, Page]:
    """A page with something in every section."""
    data = listing(
        *random_cohort(40),
        quarantined=[quarantined("q1"), quarantined("q2", "dtype")],
        findings=[{"case_id": "patient_0001", "code": "metal", "severity": "warning", "message": "3 ml of metal"}],
    )
    measured = {
        "split": "train", "feature": "slice_spacing_mm", "kind": "drift", "reference": "the data before",
        "distance": "Jensen-Shannon divergence", "value": 0.05, "threshold": 0.1, "bound": 0.2,
    }  # fmt: skip
    return page(
        data,
        [finding("hold"), finding("note", split="", value=None, bound=None)],
        previous=listing(*random_cohort(20, seed=1), span=3),
        comparison={
            "references": [{"name": "the data before (span 3)", "fingerprint": "aa"}],
            "measurements": [measured],
        },
        thumbnails={"q1": tile()["image"]},
        tiles=[tile("patient_0001"), tile("patient_0002", lesion_cm2=0.0, outline="")],
    )


def test_what_comes_from_data_is_escaped_everywhere() -> None:
    data = listing(
        record(EVIL, patient_id=EVIL, orientation=EVIL), record("b", orientation="RAS"),
        quarantined=[quarantined(EVIL, EVIL, f"{EVIL}; {EVIL}")],
        findings=[{"case_id": EVIL, "code": EVIL, "severity": "warning", "message": EVIL}],
        fingerprint=EVIL,
    )  # fmt: skip
    found = finding(split=EVIL, feature=EVIL, rule=EVIL, description=EVIL)
    comparison = {"references": [{"name": EVIL, "fingerprint": EVIL}], "measurements": []}
    tiles = [tile(EVIL)]
    html = render(collect(data, [found], name=EVIL, created=EVIL, comparison=comparison, tiles=tiles))
    parsed = Page(html)
    assert "<script" not in html and "<img src=x" not in html
    assert not [attributes for _, attributes in parsed.elements if "onerror" in attributes]
    assert parsed.text.count(EVIL) > 12
    (shown,) = [image for image in parsed.all("img") if image["src"].startswith("data:")]
    assert EVIL in shown["alt"]


def test_nothing_is_asked_of_the_network() -> None:
    needs_nothing(full()[0])


def test_headings_landmarks_and_names_for_those_who_do_not_see_it() -> None:
    html, parsed = full()
    is_accessible(html)
    charts = [item for item in parsed.all("div") if item.get("role") == "img"]
    assert len(charts) >= 9 and all("median" in item["aria-label"] or "%" in item["aria-label"] for item in charts)


def test_every_section_says_so_when_there_is_nothing() -> None:
    _, parsed = page(listing(record("a", lesion_ml=0.0), record("v", "val", 0.0)))
    for text in (
        "Clean", "nothing was found against them", "No scan is quarantined", "Nothing was remarked",
        "There is no slice to show", "There is no earlier data", "nothing drifted beyond its bounds",
    ):  # fmt: skip
        assert text in parsed.text, text
    assert "None" not in parsed.text and "nan" not in parsed.text.lower()


def test_a_cohort_of_nothing_is_a_page_too() -> None:
    _, parsed = page(listing(quarantined=[quarantined("a")]), [finding("stop")])
    assert "Stopped" in parsed.text and "No scan is in use" in parsed.text


def test_a_full_page_names_what_matters() -> None:
    html, parsed = full()
    for text in (
        "Held", "holds the push", "0.612", "Blood volume", "metal", "3 ml of metal", "no picture", "Copy it anew",
        "previous", "span 3", "the data before (span 3)", "patient_0039", "slice_spacing_mm",
    ):  # fmt: skip
        assert text in parsed.text, text
    assert html.count('<path d="M10 10L20 10L20 20L10 20Z"/>') == 1


def test_the_page_is_the_same_again_and_from_json() -> None:
    content = collect(listing(*random_cohort(30)), [finding()], name="demo", tiles=[tile()])
    assert render(content) == render(json.loads(json.dumps(content)))


def test_500_patients_with_pictures_stay_below_5_mb() -> None:
    def picture(size: int) -> str:
        return "data:image/webp;base64," + base64.b64encode(os.urandom(size)).decode()

    bad = [quarantined(f"bad_{number:03d}", "mask-affine", "x" * 300 + "; " + "y" * 100) for number in range(125)]
    remarks = [
        {"case_id": f"patient_{number:04d}", "code": code, "severity": "warning", "message": "z" * 200}
        for number in range(500) for code in ("metal", "motion")
    ]  # fmt: skip
    many = [f"patient_{number:04d}" for number in range(24)]
    html, _ = page(
        listing(*random_cohort(500), quarantined=bad, findings=remarks),
        [finding("note", feature=f"feature_{number}") for number in range(40)],
        previous=listing(*random_cohort(400, seed=1)),
        thumbnails={item["case_id"]: picture(4_000) for item in bad},
        tiles=[tile(case, image=picture(16_000), outline="M10.5 10.5L" * 400) for case in many],
    )
    assert 1 * MIB < len(html.encode()) < 5_000_000


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0, "0"), (7, "7"), (12345, "12 345"), (3.0, "3"), (0.7300, "0.73"), (20.856, "20.86"),
     (-104.25, "−104.2"), (1051.73, "1 052"), ("", "–")],
)  # fmt: skip
def test_numbers(value: Any, text: str) -> None:
    assert number(value).replace("\N{NARROW NO-BREAK SPACE}", " ") == text


@pytest.mark.parametrize(("part", "whole", "text"), [(0, 0, "–"), (0, 9, "0 %"), (1, 300, "< 1 %"), (1, 3, "33 %")])
def test_percentages(part: int, whole: int, text: str) -> None:
    assert percent(part, whole).replace("\N{NARROW NO-BREAK SPACE}", " ") == text


def test_a_chart_in_words() -> None:
    content = collect(listing(record("a", orientation="RAS"), record("b"), record("c")), [], name="demo")
    chart = next(item for item in content["distributions"] if item["key"] == "orientation")
    words = alt_text(chart).replace("\N{NARROW NO-BREAK SPACE}", " ")
    assert words == "Orientation. train, 3 scans: LPS 67 %, RAS 33 %."
