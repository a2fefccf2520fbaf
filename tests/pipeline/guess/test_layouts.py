"""`ich init` finds just the pairs that are meant, whatever the layout: looked at as ingestion will look."""

from __future__ import annotations

import csv
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.nifti_example_gen.layout import Cohort, find_cases
from components.nifti_example_gen.splits import deal
from pipeline.config import Config, load_config
from pipeline.guess.content import read_grids
from pipeline.guess.propose import Proposal, propose, propose_grid
from pipeline.guess.write import to_yaml
from tests.pipeline.guess.folders import Folder, Pairs, mask, scan

Layout = Callable[[str, str], tuple[str, str]]
"""Paths of scan and mask by case id and extension."""

LAYOUTS: dict[str, Layout] = {
    "two folders": lambda case, end: (f"images/{case}{end}", f"masks/{case}{end}"),
    "INSTANCE 2022": lambda case, end: (f"data/{case}{end}", f"label/{case}{end}"),
    "BHSD": lambda case, end: (f"label_192/images/{case}{end}", f"label_192/ground truths/{case}{end}"),
    "folder a case": lambda case, end: (f"{case}/image{end}", f"{case}/mask{end}"),
    "folder a case, its name in the files": lambda case, end: (f"{case}/{case}_ct{end}", f"{case}/{case}_seg{end}"),
    "folder a case, scan plainly named": lambda case, end: (f"{case}/{case}{end}", f"{case}/{case}_mask{end}"),
    "folder a case below another": lambda case, end: (f"cases/{case}/ct{end}", f"cases/{case}/label{end}"),
    "folders below the case": lambda case, end: (f"{case}/scan/volume{end}", f"{case}/roi/volume{end}"),
    "nnU-Net": lambda case, end: (f"imagesTr/{case}_0000{end}", f"labelsTr/{case}{end}"),
    "MSD": lambda case, end: (f"imagesTr/ICH_{case}{end}", f"labelsTr/ICH_{case}{end}"),
    "one folder, _mask": lambda case, end: (f"{case}{end}", f"{case}_mask{end}"),
    "one folder, _seg": lambda case, end: (f"all/{case}_ct{end}", f"all/{case}_seg{end}"),
    "one folder, -label": lambda case, end: (f"{case}{end}", f"{case}-label{end}"),
    "one folder, label_": lambda case, end: (f"image_{case}{end}", f"label_{case}{end}"),
    "LiTS": lambda case, end: (f"volume-{case}{end}", f"segmentation-{case}{end}"),
    "suffixes in two folders": lambda case, end: (f"CT/{case}_CT{end}", f"Manual/{case}_Hemorrhage{end}"),
    "BIDS": lambda case, end: (
        f"sub-{case}/ses-1/anat/sub-{case}_ses-1_ct{end}",
        f"derivatives/labels/sub-{case}/ses-1/anat/sub-{case}_ses-1_label{end}",
    ),
    "names exchanged": lambda case, end: (f"masks/{case}{end}", f"images/{case}{end}"),
    "names that say nothing": lambda case, end: (f"A/{case}{end}", f"B/{case}{end}"),
}
IDS: dict[str, Callable[[int], str]] = {
    "padded": lambda number: f"{number:03d}",
    "plain": lambda number: f"{number + 95}",
    "with letters": lambda number: f"ICH{number:04d}",
    "with separators": lambda number: f"P-{number:02d}_head",
    "names": lambda number: "abcdefghijklmnopqrst"[number] + "elios",
}


def found(folder: Folder) -> tuple[Proposal, Config, Cohort]:
    """What is proposed for a folder, written and read back, and what ingestion finds with it."""
    target = folder.root.parent / f"{folder.root.name}.yaml"
    made = propose(folder.root, target.with_suffix(".csv"))
    if made.manifest:
        target.with_suffix(".csv").write_text(made.manifest)
    target.write_text(to_yaml(made))
    config = load_config(target)
    return made, config, find_cases(folder.root, config.data.model_dump(mode="json"))


def paired(folder: Folder, cohort: Cohort) -> Pairs:
    return {
        (case.image.relative_to(folder.root).as_posix(), case.mask.relative_to(folder.root).as_posix())
        for case in cohort.cases
    }


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "data")


@pytest.mark.parametrize("extension", [".nii.gz", ".nii"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout(folder: Folder, name: str, extension: str) -> None:
    for number in range(5):
        folder.case(*LAYOUTS[name](f"{number:03d}", extension))
    made, _, cohort = found(folder)
    assert paired(folder, cohort) == folder.pairs
    assert (made.cases, made.incomplete, made.manifest, made.unexplained) == (5, 0, "", [])


@given(
    layouts=st.lists(st.sampled_from(sorted(LAYOUTS)), min_size=1, max_size=2, unique=True),
    ids=st.sampled_from(sorted(IDS)),
    count=st.integers(2, 9),
    first=st.integers(0, 9),
    extension=st.sampled_from([".nii.gz", ".nii"]),
    without_mask=st.booleans(),
    clutter=st.booleans(),
    deep=st.booleans(),
)
@settings(max_examples=50, deadline=None, derandomize=True, database=None)
def test_any_folder(
    layouts: list[str], ids: str, count: int, first: int, extension: str, without_mask: bool, clutter: bool, deep: bool
) -> None:
    """One layout, or two as sources side by side, with and without what people leave lying about."""
    place = Path(tempfile.mkdtemp())
    try:
        folder = Folder(place / "data")
        for source, layout in zip(("clinic_a/", "clinic_b/"), layouts, strict=False):
            base = source if len(layouts) > 1 else "export/" if deep else ""
            for number in range(first, first + count):
                image, drawn = LAYOUTS[layout](IDS[ids](number), extension)
                folder.case(base + image, base + drawn)
        if clutter:
            folder.add("README.md", b"hello")
            folder.add("notes/readers.csv", b"reader,years\nA,7\n")
            folder.add(".cache/001.nii.gz", scan())
            folder.add("notes/._001.nii.gz", b"\0")
        if without_mask and count > 5:
            image, drawn = sorted(folder.pairs)[0]
            (folder.root / drawn).unlink()
            folder.pairs.remove((image, drawn))
        made, _, cohort = found(folder)
        assert paired(folder, cohort) == folder.pairs, to_yaml(made)
        assert made.cases == len(folder.pairs)
        assert len({case.case_id for case in cohort.cases}) == len(folder.pairs)
    finally:
        shutil.rmtree(place)


def test_names_of_folders_exchanged(folder: Folder) -> None:
    for number in range(4):
        folder.case(f"masks/{number}.nii.gz", f"images/{number}.nii.gz")
    made, config, _ = found(folder)
    assert (config.data.image, config.data.mask) == ("masks/{case}.nii.gz", "images/{case}.nii.gz")
    assert "the names say the opposite" in made.guesses[1].why


def test_two_sets_of_masks(folder: Folder) -> None:
    for number in range(6):
        folder.case(f"images/{number}.nii.gz", f"masks/{number}.nii.gz")
        if number:
            folder.add(f"masks_reader2/{number}.nii.gz", mask())
    made, config, cohort = found(folder)
    assert config.data.mask == "masks/{case}.nii.gz" and len(cohort.cases) == 6
    (said,) = [note for note in made.notes if "masks_reader2" in note]
    assert "masks_reader2/{case}.nii.gz fits as masks of 5 of the same cases" in said and "set data.mask" in said
    assert made.unexplained == ["5 files NIfTI: masks_reader2/1.nii.gz, …"]


def test_two_series_of_scans(folder: Folder) -> None:
    for number in range(4):
        folder.case(f"{number}/ct.nii.gz", f"{number}/mask.nii.gz")
        folder.add(f"{number}/bone.nii.gz", scan())
    made, config, _ = found(folder)
    assert config.data.image == "{case}/ct.nii.gz"
    assert any(note.startswith("{case}/bone.nii.gz fits as scans of 4") for note in made.notes)


def test_sources_of_equal_ids_stay_apart(folder: Folder) -> None:
    """The scans of one with the masks of the other would be more pairs."""
    for number in range(8):
        folder.case(f"berlin/images/{number}.nii.gz", f"berlin/masks/{number}.nii.gz")
    for number in range(12):
        folder.add(f"paris/images/{number}.nii.gz", scan())
        if number >= 4:
            folder.case(f"paris/images/{number}.nii.gz", f"paris/masks/{number}.nii.gz")
    made, config, cohort = found(folder)
    assert set(config.data.sources) == {"berlin", "paris"}
    assert paired(folder, cohort) == folder.pairs
    assert (made.sources, made.incomplete) == ({"berlin": 8, "paris": 8}, 4)


def test_a_source_whose_name_begins_as_anothers(folder: Folder) -> None:
    for number in range(5):
        for source in ("a", "a_b"):
            folder.case(f"{source}/images/{number}.nii.gz", f"{source}/masks/{number}.nii.gz")
    made, config, cohort = found(folder)
    assert len(config.data.sources) == 2 and made.unexplained == []
    assert paired(folder, cohort) == folder.pairs
    assert "5 case ids are in several sources, and count as different people there" in made.notes


@pytest.mark.parametrize(
    ("labels", "wanted"), [((1,), None), ((255,), None), ((1, 2, 5), [1, 2, 3, 4, 5]), ((10, 20), [10, 20])]
)
def test_labels(folder: Folder, labels: tuple[int, ...], wanted: list[int] | None) -> None:
    for number in range(5):
        folder.case(f"images/{number}.nii.gz", f"masks/{number}.nii.gz", labels=labels if number else ())
    made, config, _ = found(folder)
    assert config.data.lesion_labels == wanted
    assert any(note.startswith("1 of 5 masks are empty") for note in made.notes)


@pytest.mark.parametrize(
    ("pixels", "zooms", "wanted"),
    [
        ((512, 512, 32), (0.45, 0.45, 5.0), {"context_slices": 1}),
        ((512, 512, 8), (0.45, 0.45, 5.0), {}),
        ((128, 128, 24), (1.8, 1.8, 5.0), {"size": 128, "spacing_mm": 1.8, "context_slices": 1}),
        ((30, 512, 512), (5.0, 0.45, 0.45), {"context_slices": 1}),
    ],
)
def test_grids(tmp_path: Path, pixels: tuple[int, ...], zooms: tuple[float, ...], wanted: dict[str, float]) -> None:
    image = nib.Nifti1Image(np.zeros(pixels, np.uint8), np.diag([*zooms, 1.0]))
    nib.save(image, tmp_path / "scan.nii")
    made = Proposal(tmp_path, "x")
    propose_grid(made, read_grids([tmp_path / "scan.nii"]))
    assert made.tree().get("grid", {}) == wanted


@pytest.mark.parametrize("patients", [3, 6, 15, 30])
def test_a_small_cohort_fills_every_split(folder: Folder, patients: int) -> None:
    for number in range(patients):
        folder.case(f"images/{number}.nii.gz", f"masks/{number}.nii.gz")
    made, config, cohort = found(folder)
    counts = {name: len(cases) for name, cases in deal(cohort.cases, config.splits.model_dump()).items()}
    assert counts == made.patients  # none is empty, or it would have been refused
    assert counts["train"] >= counts["val"] and counts["train"] >= counts["test"]


def test_two_patients_are_too_few_and_told_so(folder: Folder) -> None:
    for number in range(2):
        folder.case(f"images/{number}.nii.gz", f"masks/{number}.nii.gz")
    made, _, _ = found(folder)
    assert any("2 patients fill no three splits" in note for note in made.notes)


def test_links_that_go_round_and_names_that_mean_something_in_patterns(folder: Folder) -> None:
    for number in range(4):
        folder.case(f"set [1]/im ages/{number}.nii.gz", f"set [1]/ma sks/{number}.nii.gz")
    (folder.root / "set [1]" / "back").symlink_to(folder.root)
    _, _, cohort = found(folder)
    assert paired(folder, cohort) == folder.pairs


def test_both_extensions_in_one_folder(folder: Folder) -> None:
    for number in range(6):
        folder.case(f"images/{number}{'.nii' if number % 2 else '.nii.gz'}", f"masks/{number}.nii.gz")
    _, config, cohort = found(folder)
    assert config.data.image == "images/{case}.nii*" and paired(folder, cohort) == folder.pairs


def test_nnunet_in_full(folder: Folder) -> None:
    """Test scans without masks, a second channel, the data set's JSON."""
    for number in range(8):
        folder.case(f"Dataset007_ICH/imagesTr/ICH_{number:03d}_0000.nii.gz", f"Dataset007_ICH/labelsTr/ICH_{number:03d}.nii.gz")  # noqa: E501 # fmt: skip
        folder.add(f"Dataset007_ICH/imagesTr/ICH_{number:03d}_0001.nii.gz", scan())
    folder.add("Dataset007_ICH/imagesTs/ICH_900_0000.nii.gz", scan())
    folder.add("Dataset007_ICH/dataset.json", b"{}")
    made, config, cohort = found(folder)
    assert config.data.image == "Dataset007_ICH/imagesTr/{case}_0000.nii.gz"
    assert paired(folder, cohort) == folder.pairs
    assert any("imagesTr/ICH_000_0001" in line for line in made.unexplained)


@pytest.mark.parametrize(
    ("spelt", "names"),
    [
        ("span-{SPAN}", ["span-1", "span-2", "span-10"]),
        ("{YYYY}-{MM}-{DD}", ["2024-01-31", "2024-02-29", "2025-03-01"]),
        ("{YYYY}{MM}{DD}", ["20240131", "20240229", "20250301"]),
        ("{YYYY}/{MM}/{DD}", ["2024/01/31", "2024/02/29", "2025/03/01"]),
        ("delivery_{SPAN}", ["delivery_01", "delivery_02", "delivery_03"]),
    ],
)
def test_deliveries(folder: Folder, spelt: str, names: list[str]) -> None:
    for index, name in enumerate(names):
        for number in range(4):
            case = f"{index}{number}"
            folder.case(f"{name}/images/{case}.nii.gz", f"{name}/masks/{case}.nii.gz")
    _, config, cohort = found(folder)
    assert config.data.image == f"{spelt}/images/{{case}}.nii.gz"
    assert config.data.spans == 3
    assert paired(folder, cohort) == folder.pairs


def test_patients_by_folder(folder: Folder) -> None:
    for patient in ("17", "18", "40", "41"):
        for letter in "ab":
            folder.case(f"pat{patient}/{patient}{letter}/ct.nii.gz", f"pat{patient}/{patient}{letter}/mask.nii.gz")
    made, config, cohort = found(folder)
    assert config.data.image == "{patient}/{case}/ct.nii.gz"
    assert {case.patient_id for case in cohort.cases} == {"pat17", "pat18", "pat40", "pat41"}
    assert sum(made.patients.values()) == 4


@pytest.mark.parametrize(
    ("ids", "patients"),
    [
        (["P01_1", "P01_2", "P02_1", "P03_1"], {"P01", "P02", "P03"}),
        (["P01_baseline", "P01_followup", "P02_baseline", "P03"], {"P01", "P02", "P03"}),
        (["s7-20240131", "s7-20240305", "s8-20240131", "s9-20240101"], {"s7", "s8", "s9"}),
        (["101a", "101b", "102a", "103a"], {"101", "102", "103"}),
        (["ICH_01", "ICH_02", "ICH_03", "ICH_04"], {"ICH_01", "ICH_02", "ICH_03", "ICH_04"}),
        (["001", "002", "003", "004"], {"001", "002", "003", "004"}),
    ],
)
def test_patients_by_case_id(folder: Folder, ids: Sequence[str], patients: set[str]) -> None:
    for case in ids:
        folder.case(f"images/{case}.nii.gz", f"masks/{case}.nii.gz")
    _, _, cohort = found(folder)
    assert {case.patient_id for case in cohort.cases} == patients


def test_case_ids_that_come_again_get_a_manifest(folder: Folder) -> None:
    """Each patient has a scan1 and a scan2: no pattern makes case ids of these."""
    for patient in ("p1", "p2", "p3"):
        for number in (1, 2):
            folder.case(f"{patient}/scan{number}/ct.nii.gz", f"{patient}/scan{number}/mask.nii.gz")
    made, config, cohort = found(folder)
    assert config.data.manifest and made.manifest
    assert paired(folder, cohort) == folder.pairs
    assert {case.patient_id for case in cohort.cases} == {"p1", "p2", "p3"}
    assert len({case.case_id for case in cohort.cases}) == 6


def test_too_many_without_mask_get_a_manifest(folder: Folder) -> None:
    for number in range(10):
        folder.add(f"images/{number}.nii.gz", scan())
        if number < 5:
            folder.case(f"images/{number}.nii.gz", f"masks/{number}.nii.gz")
    made, _, cohort = found(folder)
    assert paired(folder, cohort) == folder.pairs and not cohort.quarantined
    assert "more than 25% stop a run" in made.guesses[0].why
    assert made.unexplained == ["5 files NIfTI: images/5.nii.gz, …"]


def write_manifest(path: Path, rows: Sequence[tuple[str, str, str]], columns: str = "case_id,image,mask") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns.split(","))
        writer.writerows(rows)


def test_a_manifest_that_is_there_goes_first(folder: Folder) -> None:
    for number in range(4):
        folder.case(f"images/{number}.nii.gz", f"masks/{number}.nii.gz")
    folder.pairs = {pair for pair in folder.pairs if "0" not in pair[0]}
    write_manifest(folder.root / "lists/cases.csv", [(image[7], image, drawn) for image, drawn in folder.pairs])
    made, config, cohort = found(folder)
    assert config.data.manifest == "lists/cases.csv" and paired(folder, cohort) == folder.pairs
    assert made.unexplained and "images/0.nii.gz" in made.unexplained[0]


def test_manifests_by_delivery(folder: Folder) -> None:
    for span in (1, 2):
        image, drawn = f"x/{span}_i.nii.gz", f"x/{span}_m.nii.gz"
        folder.case(image, drawn)
        write_manifest(folder.root / f"lists/{span}.csv", [(str(span), image, drawn)])
    _, config, cohort = found(folder)
    assert (config.data.manifest, config.data.spans) == ("lists/{SPAN}.csv", 2)
    assert paired(folder, cohort) == folder.pairs


def test_a_manifest_with_other_columns_is_told_how_to_be_mended(folder: Folder) -> None:
    for number in range(4):
        folder.case(f"images/{number}.nii.gz", f"masks/{number}.nii.gz")
    write_manifest(folder.root / "list.csv", [("0", "images/0.nii.gz", "masks/0.nii.gz")], "id,scan,label")
    made, _, _ = found(folder)
    assert any("rename id to case_id, scan to image, label to mask" in note for note in made.notes)


def test_thousands_of_files_take_no_time(folder: Folder) -> None:
    for number in range(1500):
        folder.case(f"{number:05d}/{number:05d}_ct.nii.gz", f"{number:05d}/{number:05d}_mask.nii.gz")
    began = time.process_time()
    made = propose(folder.root, folder.root / "x.csv")
    seconds = time.process_time() - began
    assert made.cases == 1500
    assert seconds < 20  # about 3 s of an idle core; far more once it grows with the square
