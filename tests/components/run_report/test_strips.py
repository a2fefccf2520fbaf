"""Which scans and slices are shown, and that what is drawn of them are the masks, where they lie."""

from __future__ import annotations

import re

import numpy as np
import pytest

from components.evaluator.patient_metrics import Outlined
from components.imaging.geometry import Geometry
from components.imaging.metrics import dice
from components.run_report.strips import choose, draw, shown_slices
from tests.components.data_report.listings import record
from tests.components.run_report.runs import scan

GEOMETRY = Geometry((6, 40, 50), (5.0, 1.5, 2.0), (18.0, 26.5), 32, 3.0)


def cases(**patients: str) -> dict[str, dict[str, object]]:
    """Cases by id, and whose each is."""
    return {case: record(case, "test", patient_id=patient) for case, patient in patients.items()}


def test_best_median_worst_and_the_most_false_positives() -> None:
    measures = {
        "a": scan(0.9, alarms=0), "b": scan(0.7, alarms=1), "c": scan(0.5, alarms=2), "d": scan(0.3, alarms=0),
        "healthy": scan(0.0, true_ml=0, alarms=5), "clean": scan(1.0, true_ml=0, predicted_ml=0, alarms=0),
    }  # fmt: skip
    found = choose(measures, cases(a="a", b="b", c="c", d="d", healthy="e", clean="f"))
    # Of four, the median is the third; without blood nobody is the best or the worst.
    assert list(found.items()) == [
        ("a", ("best",)), ("c", ("median",)), ("d", ("worst",)), ("healthy", ("false_positives",))
    ]  # fmt: skip


def test_a_scan_with_several_roles_comes_once() -> None:
    measures = {"a": scan(0.9, alarms=0), "b": scan(0.2, alarms=3)}
    assert choose(measures, cases(a="a", b="b")) == {"a": ("best",), "b": ("median", "worst", "false_positives")}
    assert choose({"a": scan(alarms=0)}, cases(a="a")) == {"a": ("best", "median", "worst")}


def test_of_a_patient_the_scan_with_blood_nearest_to_the_mean_is_shown() -> None:
    """0.8, 0.4 and 0.9 without blood: the mean is 0.7."""
    measures = {"x1": scan(0.4, alarms=0), "x2": scan(0.8, alarms=0), "x3": scan(0.9, true_ml=0, alarms=0)}
    assert choose(measures, cases(x1="x", x2="x", x3="x")) == {"x2": ("best", "median", "worst")}


def test_without_blood_nor_false_positives_there_is_nothing_to_show() -> None:
    assert choose({"a": scan(1.0, true_ml=0, predicted_ml=0, alarms=0)}, cases(a="a")) == {}
    assert choose({}, {}) == {}


@pytest.mark.parametrize(
    ("count", "lesion", "wanted"),
    [
        (6, [2], range(6)),  # a short scan is shown whole
        (30, [], [0, 3, 6, 10, 13, 16, 19, 23, 26, 29]),  # of an empty one something everywhere
        (30, [15, 16], range(11, 21)),  # the lesion in the middle
        (30, [1], range(10)),  # at an end as many slices
        (30, [29], range(20, 30)),
        (30, range(10, 20), range(10, 20)),
        (100, range(100), [0, 11, 22, 33, 44, 55, 66, 77, 88, 99]),  # spread evenly, with both ends
    ],
)
def test_the_slices_that_are_shown(count: int, lesion: list[int], wanted: range | list[int]) -> None:
    marks = np.zeros(count, bool)
    marks[list(lesion)] = True
    assert shown_slices(marks, most=10) == list(wanted)


def outlined_pair() -> Outlined:
    """Random truth and prediction in four of six slices."""
    rng = np.random.default_rng(3)
    masks = [np.zeros(GEOMETRY.native_shape, bool) for _ in range(2)]
    for mask in masks:
        mask[1:5, 10:25, 15:35] = rng.random((4, 15, 20)) < 0.6
    return Outlined(GEOMETRY, masks[0], masks[1], [])


def pixels(path: str, shape: tuple[int, int]) -> np.ndarray:
    """The mask of a path to fill."""
    found = np.zeros(shape, bool)
    for x, y, width in re.findall(r"M(\d+) (\d+)h(\d+)v1h-\d+z", path):
        found[int(y), int(x) : int(x) + int(width)] = True
    return found


def test_errors_and_areas_are_those_of_the_masks() -> None:
    pair = outlined_pair()
    strip = draw(pair, np.zeros((6, 32, 32), np.int16))
    assert strip["dice"] == dice(pair.truth, pair.predicted)
    assert [item["slice"] for item in strip["slices"]] == [1, 2, 3, 4, 5, 6] and strip["slices_in_scan"] == 6
    for item in strip["slices"]:
        true, predicted = pair.truth[item["slice"] - 1], pair.predicted[item["slice"] - 1]
        false, missed = (pixels(item[name], true.shape) for name in ("false_positive", "missed"))
        assert np.array_equal(false, predicted & ~true) and np.array_equal(missed, true & ~predicted)
        for name, mask in (("truth", true), ("prediction", predicted), ("false_positive", false), ("missed", missed)):
            assert item["cm2"][name] == pytest.approx(mask.sum() * 1.5 * 2 / 100, abs=5e-4)
            assert bool(item[name]) == mask.any()
        assert item["image"].startswith("data:image/webp;base64,")
    assert strip["start"] == max(range(6), key=lambda index: pair.truth[index].sum())


def test_masks_lie_on_the_picture_where_their_pixels_do() -> None:
    """The transform takes the box of a lesion to where resampling takes the lesion itself."""
    truth = np.zeros(GEOMETRY.native_shape, bool)
    truth[2, 12:20, 22:40] = True
    strip = draw(Outlined(GEOMETRY, truth, truth, []), np.zeros((6, 32, 32), np.int16))
    tx, ty, sx, sy = map(float, re.findall(r"-?[\d.]+", strip["transform"]))
    coverage = GEOMETRY.to_grid(truth[2:3], outside=0)[0]
    rows, columns = (coverage.sum(axis=axis) for axis in (1, 0))
    places = np.arange(32) + 0.5  # centres of pixels, from the corner of the picture
    assert ty + sy * 16 == pytest.approx(np.average(places, weights=rows), abs=1e-3)
    assert tx + sx * 31 == pytest.approx(np.average(places, weights=columns), abs=1e-3)
    assert sx * 18 * sy * 8 == pytest.approx(coverage.sum(), rel=1e-3)


def test_a_long_scan_costs_no_more_than_forty_pictures() -> None:
    geometry = Geometry((200, 8, 8), (1.0, 1.0, 1.0), (3.5, 3.5), 8, 1.0)
    masks = np.ones(geometry.native_shape, bool)
    strip = draw(Outlined(geometry, masks, masks, []), np.zeros((200, 8, 8), np.int16))
    assert len(strip["slices"]) == 40 and strip["slices"][-1]["slice"] == strip["slices_in_scan"] == 200
