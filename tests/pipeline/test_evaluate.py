"""`ich evaluate` without its command line: pairing, geometry, refusals, the report and how it prints."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import math
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its own documentation calls it so
from rich.console import Console
from scipy import ndimage

from components.imaging.agreement import bland_altman
from components.imaging.errors import ScanError, UsageError
from components.imaging.metrics import METRIC_NAMES, ScanMetrics, scan_metrics, summarise
from pipeline.evaluate import CaseResult, EvaluationReport, compare_files, evaluate, pair_cases, render_table

SHAPE = (24, 20, 7)
AFFINE = np.array([[-0.45, 0, 0, 110.0], [0, -0.5, 0, 95.5], [0, 0, 5.0, -70.25], [0, 0, 0, 1]])
OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.2, -0.15, 0.1) @ np.diag([-0.45, -0.5, 5.0]), [110.0, 95.5, -70.25]
)
AXIS_CODES = ["".join(codes) for order in itertools.permutations(("RL", "AP", "SI"))
              for codes in itertools.product(*order)]  # fmt: skip


def lesion(seed: int, share: float = 0.1) -> np.ndarray:
    field = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(SHAPE), (2, 2, 0.7))
    return np.asarray(field > np.quantile(field, 1 - share))


def write(path: Path, mask: np.ndarray, affine: np.ndarray = AFFINE, codes: str | None = None) -> Path:
    """A mask file, stored with other axis codes on the same physical grid where `codes` is given."""
    image = nib.Nifti1Image(mask.astype(np.uint8) if mask.dtype == bool else mask, affine)
    if codes is not None:
        turn = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(codes))
        image = image.as_reoriented(turn)
        assert "".join(nib.aff2axcodes(image.affine)) == codes
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.fixture
def cohort(tmp_path: Path) -> tuple[Path, Path]:
    """Five cases: close, exact, no true blood, nothing predicted, and neither."""
    predictions, truth = tmp_path / "predictions", tmp_path / "truth"
    nothing = np.zeros(SHAPE, bool)
    pairs = [(np.roll(lesion(0), 1, 0), lesion(0)), (lesion(1), lesion(1)), (lesion(2), nothing),
             (nothing, lesion(3)), (nothing, nothing)]  # fmt: skip
    for number, (prediction, true) in enumerate(pairs):
        write(predictions / f"{number:03}.nii.gz", prediction)
        write(truth / f"{number:03}.nii.gz", true)
    return predictions, truth


def printed(report: EvaluationReport, **options: object) -> str:
    stream = io.StringIO()
    Console(file=stream, **options).print(render_table(report))  # type: ignore[arg-type]
    return stream.getvalue()


def test_cohort_is_scored_on_its_own_grid(cohort: tuple[Path, Path]) -> None:
    report = evaluate(*cohort)
    assert [result.case for result in report.cases] == ["000", "001", "002", "003", "004"]
    expected = scan_metrics(lesion(0), np.roll(lesion(0), 1, 0), (0.45, 0.5, 5.0)).as_dict()
    assert 0 < expected["dice"] < 1  # type: ignore[operator]
    assert report.cases[0].metrics.as_dict() == pytest.approx(expected, rel=1e-6)
    assert [result.metrics.dice for result in report.cases[1:]] == [1, 0, 0, 1]
    assert [result.metrics.rvd for result in report.cases] == [0, 0, None, 1, 0]

    dice = report.summaries["dice"]
    assert (dice.n, dice.undefined) == (5, 0)
    assert dice.mean == pytest.approx((expected["dice"] + 2) / 5)  # type: ignore[operator]
    assert (report.summaries["rvd"].n, report.summaries["rvd"].undefined) == (4, 1)


def test_dice_and_volume_agree_with_simpleitk_reading_the_same_files(cohort: tuple[Path, Path]) -> None:
    result = evaluate(*cohort).cases[0]
    prediction, true = (sitk.ReadImage(str(path)) for path in (result.prediction, result.truth))
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(true, prediction)
    shape = sitk.LabelShapeStatisticsImageFilter()
    shape.Execute(true)
    assert result.metrics.dice == pytest.approx(overlap.GetDiceCoefficient(), abs=1e-12)
    assert result.metrics.true_volume_ml == pytest.approx(shape.GetPhysicalSize(1) / 1000, rel=1e-6)


@pytest.mark.parametrize("workers", [1, 3])
def test_number_of_workers_changes_nothing(cohort: tuple[Path, Path], workers: int) -> None:
    assert evaluate(*cohort, workers=workers) == evaluate(*cohort)


def test_volumes_agree_as_far_as_the_masks_do(cohort: tuple[Path, Path]) -> None:
    report = evaluate(*cohort)
    apart = [case.metrics.predicted_volume_ml - case.metrics.true_volume_ml for case in report.cases]
    assert min(apart) < 0 < max(apart)
    bias, sd = float(np.mean(apart)), float(np.std(apart, ddof=1))
    assert (report.volumes.bias, report.volumes.low) == pytest.approx((bias, bias - 1.96 * sd))
    assert f"bias {bias:.2f} ml" in printed(report, width=200)
    assert f"limits of agreement {bias - 1.96 * sd:.2f} to {bias + 1.96 * sd:.2f} ml" in printed(report, width=200)


def test_two_files(cohort: tuple[Path, Path]) -> None:
    report = evaluate(cohort[0] / "000.nii.gz", cohort[1] / "000.nii.gz")
    assert report.cases == evaluate(*cohort).cases[:1]
    assert report.summaries["dice"].sd is None
    assert "limits of agreement need two cases" in printed(report, width=200)


def test_json_holds_null_for_undefined(cohort: tuple[Path, Path]) -> None:
    found = json.loads(json.dumps(evaluate(*cohort).to_json(), allow_nan=False))
    assert found["cases"][2]["case"] == "002"
    assert found["cases"][2]["rvd"] is None
    assert found["summary"]["rvd"]["undefined"] == 1
    assert found["missing_predictions"] == found["missing_truths"] == []
    assert set(found["summary"]) == set(found["definitions"]) == set(METRIC_NAMES)
    assert set(found["volumes"]) == {*bland_altman([], []).as_dict(), "definition"}
    assert set(found["cases"][0]) == {"case", "prediction", "truth", *METRIC_NAMES}


# --- Geometry


@pytest.mark.parametrize("affine", [AFFINE, OBLIQUE], ids=["axial", "oblique"])
@pytest.mark.parametrize("codes", AXIS_CODES)
def test_orientation_of_the_file_does_not_matter(tmp_path: Path, codes: str, affine: np.ndarray) -> None:
    truth = write(tmp_path / "truth.nii", lesion(0), affine)
    prediction = lesion(0) & lesion(0, share=0.07)
    expected = compare_files(write(tmp_path / "plain.nii", prediction, affine), truth)
    assert 0.5 < expected.dice < 1
    assert compare_files(write(tmp_path / "turned.nii", prediction, affine, codes), truth) == expected
    turned = write(tmp_path / "turned_truth.nii", lesion(0), affine, codes)
    assert compare_files(tmp_path / "plain.nii", turned).as_dict() == pytest.approx(expected.as_dict(), rel=1e-5)


def test_mirrored_voxels_under_the_same_affine_are_not_forgiven(tmp_path: Path) -> None:
    truth = write(tmp_path / "truth.nii", lesion(0))
    assert compare_files(write(tmp_path / "mirrored.nii", lesion(0)[::-1]), truth).dice < 0.5


def test_sheared_grid_has_the_volume_of_its_voxels(tmp_path: Path) -> None:
    """A gantry tilted by 20 degrees: slices 5 mm apart along the table are 5 cos 20 mm apart across."""
    tilted = AFFINE.copy()
    tilted[1:3, 2] = 5 * math.sin(math.radians(20)), 5 * math.cos(math.radians(20))
    path = write(tmp_path / "tilted.nii", lesion(0), tilted)
    expected = lesion(0).sum() * 0.45 * 0.5 * 5 * math.cos(math.radians(20)) / 1000
    assert compare_files(path, path).true_volume_ml == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("codes", ["LPS", "RAS", "SAR"])
def test_rounded_headers_are_accepted(tmp_path: Path, codes: str) -> None:
    rounded = AFFINE.copy()
    rounded[0, 0] *= 1 + 5e-4
    rounded[:3, 3] += 1e-4
    truth = write(tmp_path / "truth.nii", lesion(0))
    assert compare_files(write(tmp_path / "rounded.nii", lesion(0), rounded, codes), truth).dice == 1


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda a: a[:3, 3].__iadd__([0, 0, 5.0]), id="one-slice-up"),
        pytest.param(lambda a: a[:3, 3].__iadd__([1e-2, 0, 0]), id="a-fiftieth-of-a-voxel"),
        pytest.param(lambda a: a[:3, 0].__imul__(1.01), id="spacing-1-percent"),
        pytest.param(lambda a: a[:3, 2].__imul__(0.5), id="slices-half-as-far"),
        pytest.param(lambda a: a[:3, 2].__iadd__([0, 0.4, 0]), id="tilt-dropped"),
    ],
)
def test_other_grids_are_refused(tmp_path: Path, change: object) -> None:
    affine = AFFINE.copy()
    change(affine)  # type: ignore[operator]
    truth = write(tmp_path / "truth.nii", lesion(0))
    prediction = write(tmp_path / "prediction.nii", lesion(0), affine)
    with pytest.raises(ScanError, match=r"prediction\.nii: affine differs from that of .*truth\.nii") as raised:
        compare_files(prediction, truth)
    assert raised.value.code == "mask-affine"


def test_other_shape_is_refused(tmp_path: Path) -> None:
    truth = write(tmp_path / "truth.nii", lesion(0))
    prediction = write(tmp_path / "prediction.nii", lesion(0)[:, :, 1:], codes="SAR")
    with pytest.raises(ScanError, match=r"shape \(24, 20, 6\) .* wanted \(24, 20, 7\).*truth\.nii") as raised:
        compare_files(prediction, truth)
    assert raised.value.code == "mask-shape"


# --- Voxel values


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_foreground_is_above_one_half(tmp_path: Path, dtype: type) -> None:
    truth = write(tmp_path / "truth.nii", lesion(0))
    values: np.ndarray = np.where(lesion(0), 0.51 if np.dtype(dtype).kind == "f" else 5, 0).astype(dtype)
    assert compare_files(write(tmp_path / "values.nii", values), truth).dice == 1


def test_one_half_is_background(tmp_path: Path) -> None:
    truth = write(tmp_path / "truth.nii", lesion(0))
    half = write(tmp_path / "half.nii", lesion(0).astype(np.float32) / 2)
    assert compare_files(half, truth).predicted_volume_ml == 0


def test_an_image_is_no_mask(tmp_path: Path) -> None:
    truth = write(tmp_path / "truth.nii", lesion(0))
    image = write(tmp_path / "image.nii", np.full(SHAPE, -1000, np.int16))
    with pytest.raises(ScanError, match=r"image\.nii: values from -1000 to -1000, wanted a mask") as raised:
        compare_files(image, truth)
    assert raised.value.code == "mask-values"


def corrupt(path: Path, kind: str) -> Path:
    good = nib.Nifti1Image(lesion(0).astype(np.float32), AFFINE).to_bytes()
    zipped = gzip.compress(good)
    nan = nib.Nifti1Image(np.where(lesion(0), np.nan, 0).astype(np.float32), AFFINE).to_bytes()
    four = nib.Nifti1Image(np.zeros((*SHAPE, 2), np.uint8), AFFINE).to_bytes()
    content = {
        "empty": b"",
        "text": b"not an image",
        "truncated": zipped[: len(zipped) // 2],
        "short": gzip.compress(good[:-100]),
        "nan": gzip.compress(nan),
        "4d": gzip.compress(four),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content[kind])
    return path


@pytest.mark.parametrize("kind", ["empty", "text", "truncated", "short", "nan", "4d"])
@pytest.mark.parametrize("side", [0, 1], ids=["prediction", "truth"])
def test_one_bad_file_ends_it_with_its_name(cohort: tuple[Path, Path], kind: str, side: int) -> None:
    bad = corrupt(cohort[side] / "003.nii.gz", kind)
    with pytest.raises(ScanError) as raised:
        evaluate(*cohort)
    assert str(bad) in str(raised.value)
    assert "\n" not in str(raised.value)


# --- Pairing


@pytest.mark.parametrize(
    ("predictions", "truth"),
    [
        pytest.param(["a.nii.gz", "b.nii.gz"], ["a.nii.gz", "b.nii.gz"], id="same-names"),
        pytest.param(["a.nii", "b.nii.gz"], ["a.nii.gz", "b.nii"], id="zipped-or-not"),
        pytest.param(["a_mask.nii.gz", "b_mask.nii.gz"], ["a.nii.gz", "b.nii.gz"], id="ending-of-predictions"),
        pytest.param(["a.nii.gz", "b.nii.gz"], ["a-true-seg.nii", "b-true-seg.nii"], id="ending-of-truth"),
        pytest.param(["a_pred.nii", "b_pred.nii"], ["a_mask.nii", "b_mask.nii"], id="two-endings"),
        pytest.param(["a_mask.nii.gz", "b_mask.nii.gz"], ["a_mask.nii.gz", "b_mask.nii.gz"], id="same-ending"),
        pytest.param(["a.nii", "b.nii"], ["a/image.nii", "a/mask.nii", "b/image.nii", "b/mask.nii"], id="folders"),
        pytest.param(["a.nii", "b.nii"], ["a/a_ct.nii", "a/a_seg.nii", "b/b_ct.nii", "b/b_seg.nii"], id="name-twice"),
        pytest.param(["a.nii", "b.nii"], ["a/a.nii", "b/b.nii"], id="folder-and-name"),
        pytest.param(["a/label.nii", "b/label.nii"], ["a/mask.nii", "b/mask.nii"], id="folders-on-both-sides"),
        pytest.param(["a.nii", "a.json", "a.png", "b.nii", "b.json", ".a.nii", "logs/x.nii"], ["a.nii", "b.nii"],
                     id="other-files"),
    ],
)  # fmt: skip
def test_layouts_found(tmp_path: Path, predictions: list[str], truth: list[str]) -> None:
    sides = touch(tmp_path / "p", *predictions), touch(tmp_path / "t", *truth)
    pairs = pair_cases(*sides)
    assert (pairs.only_predictions, pairs.only_truth) == ((), ())
    shared_ending = predictions == truth and predictions[0] == "a_mask.nii.gz"
    assert [case for case, *_ in pairs.both] == (["a_mask", "b_mask"] if shared_ending else ["a", "b"])
    for case, prediction, true in pairs.both:
        for folder, file in zip(sides, (prediction, true), strict=True):
            assert file.relative_to(folder).parts[0].startswith(case[0])
            assert not any(word in file.name for word in ("image", "ct", "json"))


def test_one_case_whose_name_has_an_ending(tmp_path: Path) -> None:
    pairs = pair_cases(touch(tmp_path / "p", "case_7_mask.nii.gz"), touch(tmp_path / "t", "case_7.nii.gz"))
    assert [case for case, *_ in pairs.both] == ["case_7"]


def test_ids_that_end_alike_stay_apart(tmp_path: Path) -> None:
    """12_1 and 22_1 share the ending 2_1, but only _1 starts at a separator, and whole names fit anyway."""
    names = ["12_1.nii", "22_1.nii"]
    pairs = pair_cases(touch(tmp_path / "p", *names), touch(tmp_path / "t", *names))
    assert [case for case, *_ in pairs.both] == ["12_1", "22_1"]


@pytest.mark.parametrize(
    ("pattern", "file"),
    [
        ("{case}/mask.nii.gz", "01/mask.nii.gz"),
        ("{case}/probability.nii.gz", "01/probability.nii.gz"),
        ("deep/{case}/x/{case}_m.nii.gz", "deep/01/x/01_m.nii.gz"),
        ("run*/{case}.nii.gz", "run7/01.nii.gz"),
        ("odd[1]/{case}.nii.gz", "odd[1]/01.nii.gz"),
    ],
)
def test_patterns(tmp_path: Path, pattern: str, file: str) -> None:
    folder = touch(tmp_path / "p", "01/mask.nii.gz", "01/probability.nii.gz", "deep/01/x/01_m.nii.gz",
                   "deep/01/x/02_m.nii.gz", "run7/01.nii.gz", "odd[1]/01.nii.gz")  # fmt: skip
    other = touch(tmp_path / "t", "01.nii.gz")
    pairs = pair_cases(folder, other, prediction_pattern=pattern)
    assert pairs.both == (("01", folder / file, other / "01.nii.gz"),)
    assert pair_cases(other, folder, truth_pattern=pattern).both == (("01", other / "01.nii.gz", folder / file),)


def test_pattern_decides_which_files_count(cohort: tuple[Path, Path]) -> None:
    write(cohort[0] / "extra" / "000_second.nii.gz", lesion(0))
    write(cohort[1] / "only" / "000.nii.gz", lesion(0))
    report = evaluate(*cohort, prediction_pattern="extra/{case}_second.nii.gz", truth_pattern="only/{case}.nii.gz")
    assert [(result.case, result.metrics.dice) for result in report.cases] == [("000", 1.0)]


def test_a_missing_prediction_is_an_error_or_is_listed(cohort: tuple[Path, Path]) -> None:
    (cohort[0] / "001.nii.gz").unlink()
    (cohort[0] / "003.nii.gz").unlink()
    with pytest.raises(UsageError, match=r"predictions: no prediction for 2 of 5 cases \(001, 003\)"):
        evaluate(*cohort)
    report = evaluate(*cohort, allow_missing=True)
    assert report.missing_predictions == ("001", "003")
    assert report.to_json()["missing_predictions"] == ["001", "003"]
    assert report.summaries["dice"].n == 3
    assert "Not scored, no prediction: 001, 003 (2)" in printed(report, width=100)


def test_a_missing_truth_is_an_error_or_is_listed(cohort: tuple[Path, Path]) -> None:
    (cohort[1] / "004.nii.gz").unlink()
    with pytest.raises(UsageError, match=r"truth: no true mask for 1 of 5 cases \(004\)"):
        evaluate(*cohort)
    report = evaluate(*cohort, allow_missing=True)
    assert (report.missing_predictions, report.missing_truths) == ((), ("004",))
    assert "Not scored, no true mask: 004 (1)" in printed(report, width=100)


@pytest.mark.parametrize("name", ["000", "000_mask"])
def test_a_missing_one_hides_in_no_layout(tmp_path: Path, name: str) -> None:
    """A folder that does not share its ending throughout must not be paired in part without a word."""
    predictions = touch(tmp_path / "p", f"{name}.nii.gz", "001_mask.nii.gz")
    truth = touch(tmp_path / "t", "000.nii.gz", "001.nii.gz", "002.nii.gz")
    with pytest.raises(UsageError, match=r"no prediction for|no case in common"):
        evaluate(predictions, truth)


@pytest.mark.parametrize(
    ("predictions", "truth", "patterns", "words"),
    [
        pytest.param(None, ["a.nii"], (None, None), "p: no such file or folder", id="absent"),
        pytest.param([], ["a.nii"], (None, None), "p: no .nii or .nii.gz file in it", id="empty"),
        pytest.param(["a.png", "x/a.json"], ["a.nii"], (None, None), "p: no .nii or .nii.gz file", id="no-nifti"),
        pytest.param(["a.nii"], ["b.nii"], (None, None), "no case in common; predictions are a, true masks are b",
                     id="nothing-in-common"),
        pytest.param(["a.nii", "a.nii.gz"], ["a.nii"], (None, None), "two files for case 'a'", id="twice"),
        pytest.param(["a.nii"], ["a/x.nii", "a/y.nii"], (None, None),
                     "t: which files are the masks.*{case}/x.nii.gz, {case}/y.nii.gz", id="ambiguous"),
        pytest.param(["a.nii"], ["a.nii"], ("b/{case}.nii", None), "p: no file matches the pattern 'b/{case}.nii'",
                     id="pattern-without-a-match"),
        pytest.param(["a.nii"], ["a.nii"], (None, "mask.nii"), "pattern 'mask.nii': wanted", id="pattern-without-case"),
        pytest.param(["a.nii"], ["a.nii"], (None, "../{case}.nii"), "wanted a path below", id="pattern-upwards"),
        pytest.param(["a.nii"], ["a.nii"], ("/x/{case}.nii", None), "wanted a path below", id="pattern-absolute"),
    ],
)  # fmt: skip
def test_refused_folders(
    tmp_path: Path, predictions: list[str] | None, truth: list[str], patterns: tuple[str, str], words: str
) -> None:
    sides = tmp_path / "p", tmp_path / "t"
    for folder, names in zip(sides, (predictions, truth), strict=True):
        if names is not None:
            folder.mkdir()
            touch(folder, *names)
    with pytest.raises(UsageError, match=words):
        evaluate(*sides, prediction_pattern=patterns[0], truth_pattern=patterns[1])


def test_refused_kinds(cohort: tuple[Path, Path]) -> None:
    file = cohort[0] / "000.nii.gz"
    with pytest.raises(UsageError, match="give two files or two folders"):
        evaluate(file, cohort[1])
    with pytest.raises(UsageError, match="give two files or two folders"):
        evaluate(cohort[0], file)
    with pytest.raises(UsageError, match="patterns are for folders"):
        evaluate(file, file, truth_pattern="{case}.nii.gz")
    with pytest.raises(UsageError, match="workers is 0"):
        evaluate(*cohort, workers=0)


# --- Printing


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("terminal", [True, False])
def test_table_fits_and_cuts_no_number(width: int, terminal: bool) -> None:
    """Numbers as wide as they come from real scans, beside case ids too long for the rest of the line."""
    nothing_found = ScanMetrics(0, 0, 0, 0, 358.7, 212.34, 0, 212.34, 1, 0, 0, 12, 12, 0)
    far_too_much = ScanMetrics(0.001, 0.012, 0.024, 0.031, 356.1, 0.21, 1421.5, 1421.29, 6768.048, 0.01, 142, 0, 1, 143)
    both = (nothing_found, far_too_much)
    files = [Path(f"a-rather-long-name-of-a-case-{number}.nii") for number in range(2)]
    cases = tuple(CaseResult(file.stem, file, file, metrics) for file, metrics in zip(files, both, strict=True))
    summaries = {name: summarise([metrics.as_dict()[name] for metrics in both]) for name in METRIC_NAMES}
    volumes = bland_altman([0.21, 212.34], [1421.5, 0.0])
    report = EvaluationReport(cases, summaries, volumes, (), ())

    text = printed(report, width=width, force_terminal=terminal, color_system=None)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    assert "…" not in text
    for number in ("212.34", "1421.50", "6768.048", "358.7", "106.28 ± 150.00", "357.4 ± 1.8", "0.21–212.34"):
        assert number in text, number
    assert ("─" in text) == terminal


def test_piped_table_is_plain_text(cohort: tuple[Path, Path]) -> None:
    text = printed(evaluate(*cohort))
    assert "\x1b" not in text
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}
    assert rows["001"][:6] == ["001", "1.000", "1.000", "1.000", "1.000", "0.0"]
    assert rows["002"][8] == "undef."
    assert rows["RVD"][1:3] == ["4", "1"]
    assert rows["Dice"][1:3] == ["5", "0"]


def test_names_are_not_markup(tmp_path: Path) -> None:
    for side in "pt":
        write(tmp_path / side / "[bold]x[red].nii", lesion(0))
    assert "[bold]x[red]" in printed(evaluate(tmp_path / "p", tmp_path / "t"), width=100)


def test_one_case_shows_no_spread(cohort: tuple[Path, Path]) -> None:
    text = printed(evaluate(cohort[0] / "001.nii.gz", cohort[1] / "001.nii.gz"))
    row = next(line for line in text.splitlines() if line.startswith("Dice"))
    assert row.split() == ["Dice", "1", "0", "1.000", "±", "n/a", "n/a", "1.000", "1.000–1.000"]


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, pipeline.evaluate; "
        "sys.exit(bool({'tensorflow', 'tfx', 'apache_beam', 'keras'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
