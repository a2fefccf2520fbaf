"""What a data folder holds: by patterns and by manifest, with everything that can be wrong in either."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from components.imaging.errors import UsageError
from components.nifti_example_gen.layout import Case, data_for, find_cases, layouts, pattern_to_glob

PATTERNS = {"image": "images/{case}.nii.gz", "mask": "masks/{case}.nii.gz"}


def data(**values: Any) -> dict[str, Any]:
    """The configuration's section `data`, as far as it concerns the layout."""
    return {"image": None, "mask": None, "manifest": None, "patient": None, **values}


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def found(root: Path, settings: dict[str, Any]) -> list[tuple[str, ...]]:
    """Case, patient and files of what is complete."""
    return [
        (case.case_id, case.patient_id, *(path.relative_to(root).as_posix() for path in (case.image, case.mask)))
        for case in find_cases(root, settings).cases
    ]


# --- patterns -------------------------------------------------------------------------------------------------


def test_two_folders(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{kind}/{case}.nii.gz" for kind in ("images", "masks") for case in ("b", "a.1", "c-2")))
    touch(tmp_path, "images/notes.txt", "images/deeper/d.nii.gz", "images/.hidden.nii.gz", "masks/.hidden.nii.gz")
    (tmp_path / "images" / "folder.nii.gz").mkdir()
    cohort = find_cases(tmp_path, data(**PATTERNS))
    assert [case.case_id for case in cohort.cases] == ["a.1", "b", "c-2"]
    assert cohort.cases[1] == Case("b", "b", tmp_path / "images/b.nii.gz", tmp_path / "masks/b.nii.gz")
    assert cohort.quarantined == []


@pytest.mark.parametrize(
    ("image", "mask", "files", "wanted"),
    [
        ("{case}/image.nii.gz", "{case}/mask.nii.gz", ["7/image.nii.gz", "7/mask.nii.gz"], ("7", "7")),
        ("{patient}/{case}_ct.nii", "{patient}/{case}_seg.nii", ["p1/s2_ct.nii", "p1/s2_seg.nii"], ("s2", "p1")),
        ("{patient}_{case}.nii", "m/{patient}_{case}.nii", ["p1_s2.nii", "m/p1_s2.nii"], ("s2", "p1")),
        # The masks need not say whose they are.
        ("{patient}/{case}.nii", "masks/{case}.nii", ["p1/s2.nii", "masks/s2.nii"], ("s2", "p1")),
        # Dots and brackets are letters, not wildcards.
        ("data.v1/{case}.nii", "label(1)/{case}.nii", ["data.v1/x.nii", "label(1)/x.nii"], ("x", "x")),
    ],
)
def test_other_layouts(tmp_path: Path, image: str, mask: str, files: list[str], wanted: tuple[str, str]) -> None:
    touch(tmp_path, *files)
    assert found(tmp_path, data(image=image, mask=mask)) == [(*wanted, *files)]


def test_one_patient_with_several_scans(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{p}/{s}{end}.nii" for p, s in (("p1", "a"), ("p1", "b"), ("p2", "c")) for end in ("", "_m")))
    cases = find_cases(tmp_path, data(image="{patient}/{case}.nii", mask="{patient}/{case}_m.nii")).cases
    assert [(case.case_id, case.patient_id) for case in cases] == [("a", "p1"), ("b", "p1"), ("c", "p2")]


def test_masks_beside_the_images_are_no_images(tmp_path: Path) -> None:
    touch(tmp_path, "001.nii.gz", "001_mask.nii.gz", "002.nii.gz", "002_mask.nii.gz", "003.nii.gz", "004_mask.nii.gz")
    settings = data(image="{case}.nii.gz", mask="{case}_mask.nii.gz")
    assert [case for case, *_ in found(tmp_path, settings)] == ["001", "002"]
    cohort = find_cases(tmp_path, settings)
    assert [(item.case_id, item.code) for item in cohort.quarantined] == [
        ("003", "missing-mask"), ("004", "missing-image")]  # fmt: skip


def test_images_beside_the_masks_are_no_masks(tmp_path: Path) -> None:
    touch(tmp_path, "001_ct.nii.gz", "001.nii.gz", "002_ct.nii.gz")
    cohort = find_cases(tmp_path, data(image="{case}_ct.nii.gz", mask="{case}.nii.gz"))
    assert [case.image.name for case in cohort.cases] == ["001_ct.nii.gz"]
    assert [(item.case_id, item.code) for item in cohort.quarantined] == [("002", "missing-mask")]


def test_what_is_incomplete_is_quarantined_with_the_file_that_is_wanted(tmp_path: Path) -> None:
    touch(tmp_path, "images/1.nii.gz", "masks/1.nii.gz", "images/2.nii.gz", "masks/3.nii.gz")
    cohort = find_cases(tmp_path, data(**PATTERNS))
    assert [case.case_id for case in cohort.cases] == ["1"]
    lone_image, lone_mask = cohort.quarantined
    assert (lone_image.case_id, lone_image.code) == ("2", "missing-mask")
    assert str(tmp_path / "images/2.nii.gz") in lone_image.reason
    assert str(tmp_path / "masks/2.nii.gz") in lone_image.reason
    assert (lone_mask.case_id, lone_mask.code) == ("3", "missing-image")
    assert str(tmp_path / "masks/3.nii.gz") in lone_mask.reason


def test_patient_by_regular_expression(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{kind}/{case}.nii.gz" for kind in ("images", "masks") for case in ("12_a", "12_b", "7_a")))
    cases = find_cases(tmp_path, data(**PATTERNS, patient="^([0-9]+)_")).cases
    assert [(case.case_id, case.patient_id) for case in cases] == [("12_a", "12"), ("12_b", "12"), ("7_a", "7")]
    with pytest.raises(UsageError, match=r"data.patient: '\^x\(\.\)' does not match the case id 12_a"):
        find_cases(tmp_path, data(**PATTERNS, patient="^x(.)"))


def test_a_case_id_for_two_files_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "p1/scan.nii", "p2/scan.nii", "p1/mask.nii")
    with pytest.raises(UsageError, match=r"p2/scan\.nii: case id scan is also that of .*p1/scan\.nii; refine the pat"):
        find_cases(tmp_path, data(image="{patient}/{case}.nii", mask="{patient}/{case}_mask.nii"))


def test_folders_without_a_case_say_what_they_hold(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere: no such data folder"):
        find_cases(tmp_path / "nowhere", data(**PATTERNS))
    with pytest.raises(UsageError, match=r"no \.nii or \.nii\.gz file"):
        find_cases(tmp_path, data(**PATTERNS))
    touch(tmp_path, "ct/1.nii")
    with pytest.raises(UsageError, match=r"it holds for example ct/1\.nii; set data\.image"):
        find_cases(tmp_path, data(**PATTERNS))
    touch(tmp_path, "images/1.nii.gz")
    with pytest.raises(UsageError, match=r"1 incomplete, the first: .*images/1\.nii\.gz: has no mask"):
        find_cases(tmp_path, data(**PATTERNS))


def test_glob() -> None:
    assert pattern_to_glob("{patient}/x_{case}.nii.gz") == "*/x_*.nii.gz"


def test_a_star_beside_a_placeholder(tmp_path: Path) -> None:
    """`**` within a name is an error to pathlib."""
    touch(tmp_path, "ct/scan7.nii", "masks/m7.nii")
    assert found(tmp_path, data(image="ct/*{case}.nii", mask="masks/*{case}.nii")) == [
        ("7", "7", "ct/scan7.nii", "masks/m7.nii")]  # fmt: skip


# --- manifest -------------------------------------------------------------------------------------------------

HEADER = "case_id,patient_id,image,mask,split\n"


def manifest(root: Path, text: str | bytes) -> dict[str, Any]:
    """Writes the manifest beside two scans `a` and `b`."""
    touch(root, "a.nii", "a_m.nii", "b.nii", "b_m.nii")
    (root / "list.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return data(manifest="list.csv")


def refused(root: Path, text: str | bytes) -> str:
    with pytest.raises(UsageError) as caught:
        find_cases(root, manifest(root, text))
    assert "list.csv" in str(caught.value)
    return str(caught.value)


PLAIN = HEADER + "b,p2,b.nii,b_m.nii,val\na,p1,a.nii,a_m.nii,train\n"


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        "\ufeff" + PLAIN,
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace(",", " , ").replace("case_id , patient_id , image , mask , split", HEADER.strip()),
        PLAIN.replace("\na", "\n\n\na"),
        'mask,note,image,split,patient_id,case_id\nb_m.nii,x,b.nii,val,p2,b\na_m.nii,"y,\nz",a.nii,train,p1,a\n',
    ],
    ids=["plain", "byte order mark", "CRLF", "spaces", "blank lines", "other columns"],
)
def test_manifest(tmp_path: Path, text: str) -> None:
    assert find_cases(tmp_path, manifest(tmp_path, text)).cases == [
        Case("a", "p1", tmp_path / "a.nii", tmp_path / "a_m.nii", "train"),
        Case("b", "p2", tmp_path / "b.nii", tmp_path / "b_m.nii", "val"),
    ]


@pytest.mark.parametrize(
    "text",
    ["case_id,image,mask\na,a.nii,a_m.nii\n", HEADER + "a,,a.nii,a_m.nii,\n", HEADER + "a,  ,a.nii,a_m.nii\n"],
    ids=["no columns", "empty cells", "short line"],
)
def test_without_patient_and_split_a_case_is_its_own_patient(tmp_path: Path, text: str) -> None:
    (case,) = find_cases(tmp_path, manifest(tmp_path, text)).cases
    assert (case.patient_id, case.split) == ("a", "")


def test_blank_patients_are_not_one_patient(tmp_path: Path) -> None:
    text = HEADER + "a, ,a.nii,a_m.nii,train\nb, ,b.nii,b_m.nii,test\n"
    assert [case.patient_id for case in find_cases(tmp_path, manifest(tmp_path, text)).cases] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("case_id,patient_id,split\na,p1,train\n", "lacks the columns image, mask"),
        ("case_id;image;mask\na;a.nii;a_m.nii\n", "lacks the columns case_id, image, mask"),
        ("", "lacks the columns case_id, image, mask"),
        (HEADER + "a,p1,a.nii,a_m.nii,train\na,p1,b.nii,b_m.nii,train\n", "case_id a stands on several lines"),
        (HEADER + "\n\na,p1,a.nii,a_m.nii,training\n", "line 4: split 'training', wanted train, val, test"),
        (HEADER + ",p1,a.nii,a_m.nii,train\n", "line 2: case_id '' must be a name"),
        (HEADER + "../a,p1,a.nii,a_m.nii,train\n", "line 2: case_id '../a' must be a name without /"),
        (HEADER.encode() + b"\xe4,p1,a.nii,a_m.nii,train\n", "not a CSV file in UTF-8"),
        (HEADER, "no complete case found"),
    ],
)  # fmt: skip
def test_unusable_manifest(tmp_path: Path, text: str | bytes, said: str) -> None:
    assert said in refused(tmp_path, text)


def test_missing_manifest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"list\.csv: no such manifest \(data\.manifest\)"):
        find_cases(tmp_path, data(manifest="list.csv"))


def test_lines_whose_files_are_missing_are_quarantined(tmp_path: Path) -> None:
    root = tmp_path / "with mask in its name"
    text = HEADER + "a,p1,a.nii,a_m.nii,train\nb,p2,b.nii,none.nii,val\nc,p3,none.nii,b_m.nii,test\nd,p4,b.nii,,\n"
    cohort = find_cases(root, manifest(root, text))
    assert [case.case_id for case in cohort.cases] == ["a"]
    assert [(item.case_id, item.code) for item in cohort.quarantined] == [
        ("b", "missing-mask"), ("c", "missing-image"), ("d", "missing-mask")]  # fmt: skip
    assert "line 3: no such file: mask" in cohort.quarantined[0].reason
    assert "none.nii" in cohort.quarantined[0].reason


def test_absolute_paths_in_a_manifest_are_taken_as_they_are(tmp_path: Path) -> None:
    elsewhere = touch(tmp_path / "elsewhere", "a.nii", "a_m.nii")
    text = HEADER + f"a,p1,{elsewhere / 'a.nii'},{elsewhere / 'a_m.nii'},train\n"
    (case,) = find_cases(tmp_path / "root", manifest(tmp_path / "root", text)).cases
    assert case.image == elsewhere / "a.nii"


def test_a_star_stands_for_any_part_of_a_name(tmp_path: Path) -> None:
    for name in ("sub-01/ct_a.nii.gz", "sub-01/ct_a_lesion.nii.gz", "sub-02/ct_b.nii.gz", "sub-02/ct_b_lesion.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    data = {"image": "{case}/ct_*.nii.gz", "mask": "{case}/ct_*_lesion.nii.gz", "manifest": None, "patient": None}
    cohort = find_cases(tmp_path, data)
    assert [case.case_id for case in cohort.cases] == ["sub-01", "sub-02"]
    assert [case.image.name for case in cohort.cases] == ["ct_a.nii.gz", "ct_b.nii.gz"]


# --- several sources ------------------------------------------------------------------------------------------


def sources(**values: dict[str, Any]) -> dict[str, Any]:
    """The section `data` with these sources."""
    return data(sources={name: data(**{"lesion_labels": None, **layout}) for name, layout in values.items()})


FLAT = {"image": "a/images/{case}.nii.gz", "mask": "a/masks/{case}.nii.gz"}
FOLDERS = {"image": "b/{case}/image.nii", "mask": "b/{case}/mask.nii"}


def test_equal_ids_of_two_sources_are_two_patients(tmp_path: Path) -> None:
    touch(tmp_path, *(f"a/{kind}/{case}.nii.gz" for kind in ("images", "masks") for case in ("1", "2")))
    touch(tmp_path, "b/1/image.nii", "b/1/mask.nii", "b/9/image.nii", "a/masks/7.nii.gz")
    cohort = find_cases(tmp_path, sources(b=FOLDERS, a=FLAT))
    assert cohort.cases == [
        Case("a_1", "a_1", tmp_path / "a/images/1.nii.gz", tmp_path / "a/masks/1.nii.gz", source="a"),
        Case("a_2", "a_2", tmp_path / "a/images/2.nii.gz", tmp_path / "a/masks/2.nii.gz", source="a"),
        Case("b_1", "b_1", tmp_path / "b/1/image.nii", tmp_path / "b/1/mask.nii", source="b"),
    ]
    assert [(item.case_id, item.code) for item in cohort.quarantined] == [
        ("a_7", "missing-image"), ("b_9", "missing-mask")]  # fmt: skip
    assert str(tmp_path / "b/9/mask.nii") in cohort.quarantined[1].reason
    assert len(cohort.files) == 8  # what is incomplete counts too


def test_a_source_has_its_own_manifest_and_its_own_patients(tmp_path: Path) -> None:
    touch(tmp_path, *(f"b/{case}/{kind}.nii" for case in ("12_a", "12_b") for kind in ("image", "mask")))
    manifest(tmp_path, HEADER + "1,p1,a.nii,a_m.nii,val\n")
    settings = sources(b={**FOLDERS, "patient": "^([0-9]+)_"}, listed={"manifest": "list.csv"})
    assert [(case.case_id, case.patient_id, case.split) for case in find_cases(tmp_path, settings).cases] == [
        ("b_12_a", "b_12", ""), ("b_12_b", "b_12", ""), ("listed_1", "listed_p1", "val")]  # fmt: skip


def test_what_is_wrong_with_one_source_names_it(tmp_path: Path) -> None:
    touch(tmp_path, "a/images/1.nii.gz", "a/masks/1.nii.gz")
    with pytest.raises(
        UsageError, match=r"no complete case of source b found for b/\{case\}/image\.nii with .*data\.sources\.b\.image"
    ):
        find_cases(tmp_path, sources(a=FLAT, b=FOLDERS))
    with pytest.raises(UsageError, match=r"b\.csv: no such manifest \(data\.sources\.b\.manifest\)"):
        find_cases(tmp_path, sources(a=FLAT, b={"manifest": "b.csv"}))
    with pytest.raises(UsageError, match=r"data\.sources\.a\.patient: '\^x\(\.\)' does not match the case id 1"):
        find_cases(tmp_path, sources(a={**FLAT, "patient": "^x(.)"}))


def test_a_scan_of_two_sources_would_be_two_patients(tmp_path: Path) -> None:
    touch(tmp_path, "a/images/1.nii.gz", "a/masks/1.nii.gz")
    with pytest.raises(UsageError, match=r"a/images/1\.nii\.gz: is a scan of the sources a and b"):
        find_cases(tmp_path, sources(a=FLAT, b=FLAT))


def test_lesion_labels_are_those_of_the_source_where_it_has_some() -> None:
    settings = sources(a={**FLAT, "lesion_labels": [2]}, b=FOLDERS) | {"lesion_labels": [1], "min_slices": 3}
    one, other, plain = (Case("1", "1", Path("i"), Path("m"), source=name) for name in ("a", "b", ""))
    assert data_for(one, settings) == {**settings, "lesion_labels": [2]}
    assert data_for(other, settings) == settings
    assert data_for(plain, data(lesion_labels=[4]))["lesion_labels"] == [4]


def test_layouts() -> None:
    (only,) = layouts(data(**PATTERNS))
    assert (only.source, only.key, only.image, only.manifest) == ("", "data", PATTERNS["image"], "")
    flat, listed = layouts(sources(a=FLAT, b={"manifest": "b.csv"}))
    assert (flat.key, flat.pattern, listed.key, listed.pattern) == (
        "data.sources.a", FLAT["image"], "data.sources.b", "b.csv")  # fmt: skip
