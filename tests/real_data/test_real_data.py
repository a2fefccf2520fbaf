"""A short run on real head CT: it ends with a model, masks of the right geometry, and figures that hold up."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from components.nifti_example_gen.layout import find_cases
from components.nifti_example_gen.splits import deal
from pipeline.config import load_config
from tests.command import ich
from tests.test_end_to_end import itk_dice

DATA = Path(os.environ.get("ICH_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data at {DATA}; set ICH_REAL_DATA")

SHORT = ("training.epochs=2", "training.steps_per_epoch=40", "gate.min_mean_dice=0")


def linked(source: Path, target: Path, count: int) -> Path:
    """A folder with links to the first scans of `phe_sich`."""
    for kind in ("images", "masks"):
        (target / kind).mkdir(parents=True)
        for path in sorted((source / kind).glob("*.nii.gz"))[:count]:
            (target / kind / path.name).symlink_to(path.resolve())
    return target


@pytest.fixture(scope="module")
def short_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """Data, output and outcome of a run on 16 patients."""
    folder = tmp_path_factory.mktemp("real")
    data = linked(DATA / "phe_sich", folder / "data", 16)
    settings = [part for setting in SHORT for part in ("--set", setting)]
    process = ich("run", "-c", "phe_sich", "-d", data, "-o", folder / "output", "--json", *settings, timeout=1500)
    print(process.stdout)
    assert process.returncode == 0, process.stdout + process.stderr
    return data, folder / "output", json.loads(process.stdout.strip().splitlines()[-1])


def test_the_gate_measures_what_predict_then_writes(
    short_run: tuple[Path, Path, dict[str, Any]], tmp_path: Path
) -> None:
    data, output, outcome = short_run
    assert Path(outcome["model"], "saved_model.pb").is_file()
    for case, values in outcome["verdict"]["by_case"].items():
        scan = data / "images" / f"{case}.nii.gz"
        process = ich("predict", scan, "-o", tmp_path, "-m", output)
        assert process.returncode == 0, process.stderr
        image = nib.Nifti1Image.from_filename(scan)
        mask = nib.Nifti1Image.from_filename(tmp_path / f"{case}_mask.nii.gz")
        assert mask.shape == image.shape and np.array_equal(mask.affine, image.affine)
        truth = data / "masks" / f"{case}.nii.gz"
        assert values["patient_dice"] == pytest.approx(itk_dice(truth, tmp_path / f"{case}_mask.nii.gz"), abs=1e-9)


def test_it_learns(short_run: tuple[Path, Path, dict[str, Any]]) -> None:
    """Eighty steps are few, but an outline at random scores below 0.05 here."""
    assert short_run[2]["verdict"]["overall"]["patient_dice"] > 0.2


@pytest.mark.parametrize("axes", ["RAS", "PIR", "SLA", "ASL"])
def test_another_orientation_gives_the_same_mask(
    short_run: tuple[Path, Path, dict[str, Any]], tmp_path: Path, axes: str
) -> None:
    data, output, outcome = short_run
    case = sorted(outcome["verdict"]["by_case"])[0]
    image = nib.Nifti1Image.from_filename(data / "images" / f"{case}.nii.gz")
    ornt = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(image.affine), nib.orientations.axcodes2ornt(axes)
    )
    nib.save(image.as_reoriented(ornt), tmp_path / "turned.nii.gz")
    nib.save(image, tmp_path / "plain.nii.gz")
    for name in ("turned", "plain"):
        assert ich("predict", tmp_path / f"{name}.nii.gz", "-o", tmp_path, "-m", output).returncode == 0
    plain, turned = (nib.Nifti1Image.from_filename(tmp_path / f"{name}_mask.nii.gz") for name in ("plain", "turned"))
    assert np.array_equal(np.asarray(plain.as_reoriented(ornt).dataobj), np.asarray(turned.dataobj))


def test_true_hu_from_a_scanner_and_a_scan_without_blood_are_outlined_too(
    short_run: tuple[Path, Path, dict[str, Any]], tmp_path: Path
) -> None:
    """Other sources, true HU and a tilted gantry: after eighty steps the outline means little, the geometry all."""
    _, output, _ = short_run
    for scan in (DATA / "rsna_ich_volume.nii.gz", DATA / "negative" / "cq500_ct0.nii.gz"):
        assert ich("predict", scan, "-o", tmp_path, "-m", output).returncode == 0
        mask = nib.Nifti1Image.from_filename(tmp_path / scan.name.replace(".nii.gz", "_mask.nii.gz"))
        assert mask.shape == nib.Nifti1Image.from_filename(scan).shape


def test_every_real_case_is_found_by_its_layout() -> None:
    for name, count in (("phe_sich", 60), ("ct_ich", 22)):
        cohort = find_cases(DATA / name, load_config(name).data.model_dump())
        assert len(cohort.cases) == count and not cohort.quarantined


def test_of_the_mixed_sources_each_has_patients_in_val_and_test() -> None:
    config = load_config("real_mixed")
    dealt = deal(find_cases(DATA, config.data.model_dump()).cases, config.splits.model_dump())
    counts = {
        source: [len({case.patient_id for case in cases if case.source == source}) for cases in dealt.values()]
        for source in config.data.sources
    }
    assert counts == {"phe_sich": [43, 8, 9], "ct_ich": [15, 3, 4]}
