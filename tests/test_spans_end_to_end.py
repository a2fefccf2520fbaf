"""A folder that grows from span to span, through the command line: quarantine, repair, nothing new, drift."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import pytest

from components.imaging.phantom import write_cohort
from serving.versions import versions
from tests.command import ich

PATIENTS = 24
CONFIG = """
name: spans
data:
  image: span-{SPAN}/images/{case}.nii.gz
  mask: span-{SPAN}/masks/{case}.nii.gz
grid: {size: 64, spacing_mm: 3.6}
splits: {train: 80, val: 10, test: 10}
network: {base_filters: 8, depth: 2, stem_stride: 1}
training: {epochs: 4, steps_per_epoch: 60, batch_size: 8, learning_rate: 1.0e-2}  # with less it outlines nothing
postprocess: {threshold: 0.3, tune: false}
gate: {min_mean_dice: 0.0, max_dice_drop: 1.0}
"""


class Run(NamedTuple):
    """What a run printed, ended with and left behind."""

    code: int
    text: str
    outcome: dict[str, Any]

    @property
    def executed(self) -> set[str]:
        """Stages that were neither skipped nor taken from the cache."""
        return {stage["name"] for stage in self.outcome["stages"] if not stage.get("cached")}


class Place:
    """A data folder, a configuration and an output folder."""

    def __init__(self, folder: Path) -> None:
        self.data, self.output, self.config = folder / "data", folder / "output", folder / "spans.yaml"
        self.config.write_text(CONFIG)

    def run(self, *settings: str) -> Run:
        more = [part for setting in settings for part in ("--set", setting)]
        process = ich("run", "-c", self.config, "-d", self.data, "-o", self.output, "--json", *more)
        last = process.stdout.strip().splitlines()[-1] if process.stdout.strip() else ""
        outcome = json.loads(last) if last.startswith("{") else {}
        return Run(process.returncode, process.stdout + process.stderr, outcome)

    @property
    def report(self) -> dict[str, Any]:
        """The content of the latest run's report."""
        found: dict[str, Any] = json.loads(max((self.output / "reports").glob("*/data.json")).read_text())
        page = max((self.output / "reports").glob("*/data.html")).read_text()
        assert f">{found['verdict']['status'].capitalize()}<" in page
        return found

    @property
    def served(self) -> list[str]:
        return [path.name for path in versions(self.output / "serving" / "ich")]


def brighter(source: Path, target: Path, hu: int) -> None:
    """Writes a cohort whose scans read `hu` more, as after another calibration."""
    shutil.copytree(source / "masks", target / "masks")
    (target / "images").mkdir()
    for path in sorted((source / "images").iterdir()):
        image = nib.Nifti1Image.from_filename(path)
        values = np.clip(np.rint(image.get_fdata()) + hu, -1024, 3071).astype(np.int16)
        nib.Nifti1Image(values, image.affine).to_filename(target / "images" / path.name)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """One span, one of whose files is cut off."""
    made = Place(tmp_path_factory.mktemp("spans"))
    write_cohort(made.data / "span-1", patients=PATIENTS, seed=11, size="tiny", workers=2)
    path = made.data / "span-1" / "images" / "003.nii.gz"
    whole = path.read_bytes()
    (made.data / "whole").write_bytes(whole)
    path.write_bytes(whole[: len(whole) // 2])
    return made


def test_from_the_first_span_to_one_that_drifted(place: Place) -> None:
    first = place.run()
    assert first.code == 0, first.text
    assert "span 1, 0 incomplete" in first.text
    assert f"{PATIENTS - 1} scans" in first.text and "1 quarantined: 003 (" in first.text
    assert len(place.served) == 1

    # Nothing new: seconds, and no stage.
    again = place.run()
    assert again.code == 0, again.text
    assert "no new data" in again.text and again.outcome["unchanged"] and again.outcome["stages"] == []
    assert again.outcome["model"] == first.outcome["model"]

    # The mended file leaves quarantine, and training sees it.
    (place.data / "whole").replace(place.data / "span-1" / "images" / "003.nii.gz")
    mended = place.run()
    assert mended.code == 0, mended.text
    assert f"{PATIENTS} scans" in mended.text and "quarantined" not in mended.text
    assert {"NiftiExampleGen", "Trainer"} <= mended.executed
    assert len(place.served) == 2

    # The next span reads 15 HU more: a model is trained and measured, but not pushed.
    brighter(place.data / "span-1", place.data / "span-2", 15)
    drifted = place.run()
    assert drifted.code == 3, drifted.text
    assert "span 2, 0 incomplete" in drifted.text
    assert drifted.outcome["verdict"]["blessed"]
    held = [finding for finding in drifted.outcome["findings"] if finding["severity"] == "hold"]
    assert {(item["kind"], item["split"], item["feature"]) for item in held} == {("drift", "train", "brain_hu_mean")}
    (finding,) = held
    assert finding["value"] > finding["bound"]
    assert "which is the data before (span 1)" in finding["rule"]
    assert "held by what was found against the data:" in drifted.text
    assert f"{finding['value']:.3f}" in drifted.text and f"{finding['bound']:.3f}" in drifted.text
    assert len(place.served) == 2
    report = place.report
    assert (report["verdict"]["status"], report["span"], report["previous_span"]) == ("held", 2, 1)
    assert report["findings"][0]["value"] == finding["value"]
    means = next(item for item in report["distributions"] if item["key"] == "brain_hu_mean")["groups"]
    assert means["train"]["summary"]["median"] - means["previous"]["summary"]["median"] == pytest.approx(15, abs=2)
    assert place.run().code == 0  # said once, and nothing is new since
    assert {path.name for path in (place.output / "statistics").iterdir()} == {
        json.loads(path.read_text())["fingerprint"]
        for path in (place.output / "artifacts" / "NiftiExampleGen" / "examples").glob("*/cases.json")
    }

    # The same finding stops where it is told to, before anything is trained.
    stopped = place.run("validation.drift=stop")
    assert stopped.code == 1, stopped.text
    assert "nothing was trained" in stopped.text and "train: brain_hu_mean: " in stopped.text
    assert "Trainer" not in stopped.text
    assert place.report["verdict"]["status"] == "stopped"

    # Where the data is as it should be, a note lets the model through, which is not trained anew.
    noted = place.run("validation.drift=note")
    assert noted.code == 0, noted.text
    assert len(place.served) == 3
    assert "Trainer" not in noted.executed
