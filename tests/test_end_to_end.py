"""The whole pipeline on a small generated cohort, through the command line, again and again as a user would."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from components.imaging.phantom import write_cohort
from serving.versions import versions
from tests.command import ich

SETTINGS = (
    "grid.size=64",
    "grid.spacing_mm=3.6",
    "network.base_filters=8",
    "network.depth=3",
    "training.epochs=2",
    "training.steps_per_epoch=140",  # with fewer it outlines nothing, which is no model to push
    "training.learning_rate=5e-3",
    "training.batch_size=8",
    "gate.min_mean_dice=0",
    "validation.max_quarantined=0.2",
)
DEFECTS = ("missing-mask", "truncated-gzip", "mask-other-shape")


THIRD_PARTIES = ("INFO:absl:", "oneDNN custom operations are on")
"""What TFX and TensorFlow print in every run."""


def run(
    data: Path, output: Path, *more: str, force: bool = False, verbose: bool = False
) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """`ich run` with few steps; returns the process and the JSON that it printed last."""
    options = [*(["--force"] if force else []), *(["--verbose"] if verbose else [])]
    settings = [part for setting in (*SETTINGS, *more) for part in ("--set", setting)]
    process = ich("run", "-c", "demo", "-d", data, "-o", output, "--json", *options, *settings)
    last = process.stdout.strip().splitlines()[-1] if process.stdout.strip() else ""
    return process, json.loads(last) if last.startswith("{") else {}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fourteen sound patients and three bad cases."""
    folder = tmp_path_factory.mktemp("cohort")
    write_cohort(folder, patients=14, seed=3, size="tiny", defects=DEFECTS, workers=2)
    return folder


@pytest.fixture(scope="module")
def first(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, dict[str, Any]]:
    """Output folder, process and outcome of the first run."""
    output = tmp_path_factory.mktemp("output")
    process, outcome = run(cohort, output)
    assert process.returncode == 0, process.stdout + process.stderr
    return output, process, outcome


def test_a_run_ends_with_a_served_model_and_quarantines_bad_scans(first: tuple[Path, Any, dict[str, Any]]) -> None:
    output, process, outcome = first
    model = Path(outcome["model"])
    assert model.parent == output / "serving" / "ich"
    assert (model / "saved_model.pb").is_file()
    assert (model / "assets.extra" / "contract.json").is_file()
    (listing,) = (output / "artifacts" / "NiftiExampleGen" / "examples").glob("*/cases.json")
    cases = json.loads(listing.read_text(encoding="utf-8"))
    assert len(cases["cases"]) == 14
    assert {item["code"] for item in cases["quarantined"]} == {"missing-mask", "truncated", "mask-shape"}
    assert "3 quarantined" in process.stdout
    (page,) = (output / "reports").glob("*/data.html")
    assert f"notes: {page.resolve()}" in process.stdout
    content = json.loads(page.with_name("data.json").read_text(encoding="utf-8"))
    assert [item["code"] for item in content["quarantine"]] == [item["code"] for item in cases["quarantined"]]
    assert content["cohort"]["all"]["scans"] == 14 and len(content["contact_sheet"]) > 10
    # A picture of what is quarantined, where its file shows one.
    pictured = {item["code"] for item in content["quarantine"] if item["thumbnail"]}
    assert pictured == {"missing-mask", "mask-shape"}
    assert outcome["verdict"]["blessed"] and outcome["exit_code"] == 0


def test_the_run_has_a_report_and_the_model_a_card(first: tuple[Path, Any, dict[str, Any]]) -> None:
    output, process, outcome = first
    (page,) = (output / "reports").glob("*/index.html")
    assert f"passed: {page.resolve()}" in process.stdout
    content = json.loads(page.with_name("report.json").read_text(encoding="utf-8"))
    overall, measured = content["overall"], outcome["verdict"]["overall"]
    assert overall["dice"]["mean"] == pytest.approx(measured["patient_dice"])
    assert overall["false_positive_components"]["mean"] == pytest.approx(measured["false_positive_components"])
    assert content["calibration"] == outcome["verdict"]["calibration"] and content["calibration"]["pixels"] > 0
    assert len(content["training"]["epochs"]) == 2 and len(content["tuning"]["curves"]) > 2
    assert "The gate" in page.read_text(encoding="utf-8") and page.stat().st_size < 2_000_000
    by_case = outcome["verdict"]["by_case"]
    assert content["strips"] and all(
        strip["dice"] == pytest.approx(by_case[strip["case_id"]]["patient_dice"], abs=1e-9)
        for strip in content["strips"]
    )
    assert content["verdict"]["status"] == "pushed"
    assert content["run"]["version"] == Path(outcome["model"]).name
    assert [stage["name"] for stage in content["run"]["stages"]] == [stage["name"] for stage in outcome["stages"]]
    card = Path(outcome["model"]) / "assets.extra" / "model_card.json"
    facts = json.loads(card.read_text(encoding="utf-8"))
    assert facts["version"] == Path(outcome["model"]).name
    assert facts["measures"] == overall
    assert f"model card: {card.with_suffix('.md')}" in process.stdout


def test_the_terminal_shows_one_line_a_stage_and_no_third_party(first: tuple[Path, Any, dict[str, Any]]) -> None:
    _, process, outcome = first
    for stage in outcome["stages"]:
        assert process.stdout.count(f"\n  {stage['name']} ") == 1
    assert not [words for words in (*THIRD_PARTIES, "WARNING") if words in process.stdout + process.stderr]
    assert "Traceback" not in process.stdout + process.stderr
    assert len(process.stdout.splitlines()) < 40
    assert Path(outcome["log"]).stat().st_size > 1000


def test_the_gate_measures_what_predict_then_writes(
    first: tuple[Path, Any, dict[str, Any]], cohort: Path, tmp_path: Path
) -> None:
    """TFMA's Dice of each test scan is that of the mask file, by SimpleITK's own overlap measures."""
    output, _, outcome = first
    by_case = outcome["verdict"]["by_case"]
    assert len(by_case) == outcome["verdict"]["overall"]["scans"] >= 1
    for case, values in by_case.items():
        process = ich("predict", cohort / "images" / f"{case}.nii.gz", "-o", tmp_path, "-m", output)
        assert process.returncode == 0, process.stderr
        predicted, truth = tmp_path / f"{case}_mask.nii.gz", cohort / "masks" / f"{case}.nii.gz"
        assert values["dice" if "dice" in values else "patient_dice"] == pytest.approx(
            itk_dice(truth, predicted), abs=1e-9
        )


def itk_dice(truth: Path, predicted: Path) -> float:
    """Dice by SimpleITK; 1 when both are empty."""
    images = []
    for path in (truth, predicted):
        image = nib.Nifti1Image.from_filename(path)
        images.append(SimpleITK.GetImageFromArray((np.asarray(image.dataobj) > 0).astype(np.uint8)))
    if not any(SimpleITK.GetArrayViewFromImage(image).any() for image in images):
        return 1.0
    measures = SimpleITK.LabelOverlapMeasuresImageFilter()
    measures.Execute(*images)
    return float(measures.GetDiceCoefficient())


def test_predict_keeps_the_scans_grid(first: tuple[Path, Any, dict[str, Any]], cohort: Path, tmp_path: Path) -> None:
    output, _, _ = first
    scan = cohort / "images" / "001.nii.gz"
    process = ich("predict", scan, "-o", tmp_path, "-m", output, "--json")
    report = json.loads(process.stdout)
    image, mask = nib.Nifti1Image.from_filename(scan), nib.Nifti1Image.from_filename(tmp_path / "001_mask.nii.gz")
    assert mask.shape == image.shape and mask.get_data_dtype() == np.int8
    assert np.array_equal(mask.affine, image.affine)
    assert [int(mask.header[key]) for key in ("sform_code", "qform_code")] == [
        int(image.header[key]) for key in ("sform_code", "qform_code")
    ]
    voxel_ml = abs(np.linalg.det(image.affine[:3, :3])) / 1000
    assert report["volume_ml"] == pytest.approx(np.asarray(mask.dataobj).sum() * voxel_ml, abs=2e-3)
    assert (tmp_path / "001.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_run_again_has_nothing_to_do_and_does_not_even_start_tfx(
    first: tuple[Path, Any, dict[str, Any]], cohort: Path
) -> None:
    output, _, outcome = first
    process, again = run(cohort, output)
    assert process.returncode == 0, process.stdout + process.stderr
    assert "no new data" in process.stdout
    assert (again["unchanged"], again["model"], again["stages"]) == (True, outcome["model"], [])
    code = "import sys; from pipeline import local_runner, last_run; sys.exit('tfx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=False).returncode == 0


def test_a_forced_run_reuses_every_stage_and_pushes_nothing(
    first: tuple[Path, Any, dict[str, Any]], cohort: Path
) -> None:
    output, _, outcome = first
    process, again = run(cohort, output, force=True, verbose=True)
    assert process.returncode == 0, process.stdout + process.stderr
    shown = process.stdout + process.stderr
    assert all(words in shown for words in THIRD_PARTIES) and "  Trainer " in process.stdout
    assert all(words in Path(again["log"]).read_text() for words in THIRD_PARTIES)
    assert again["model"] == outcome["model"]
    assert len(versions(output / "serving" / "ich")) == 1
    executed = {stage["name"] for stage in again["stages"] if not stage.get("cached") and stage["name"] != "start"}
    # What is in service and known changed with the first run, so validator and gates look anew; nothing else does.
    assert executed <= {
        "DataValidator", "DataReporter", "DataGate", "ServedModel", "Evaluator", "RunReporter", "Servability", "Pusher"
    }  # fmt: skip


def test_a_pushed_model_was_served_by_a_fresh_process_and_can_be_refused_there(
    first: tuple[Path, Any, dict[str, Any]], cohort: Path
) -> None:
    output, process, outcome = first
    model = Path(outcome["model"])
    assert "servable: loads in " in process.stdout and outcome["servability"]["blessed"]
    assert (model / "assets.extra" / "tf_serving_warmup_requests").is_file()
    assert (model / "batching_params.pbtxt").is_file()
    card = json.loads((model / "assets.extra" / "model_card.json").read_text(encoding="utf-8"))
    assert card["servability"] == outcome["servability"]["measures"] and card["servability"]["slices"] == 28
    process, refused = run(cohort, output, "servability.max_memory_mib=10")
    assert process.returncode == 3, process.stdout + process.stderr
    assert refused["model"] == outcome["model"]  # which stays in service
    assert "refused as not servable:\n  servability.max_memory_mib: " in process.stdout
    assert "wanted at most 10 MiB" in process.stdout and "refused by the gate" not in process.stdout


def test_another_model_is_compared_with_the_one_in_service_and_can_be_refused(
    first: tuple[Path, Any, dict[str, Any]], cohort: Path
) -> None:
    output, _, outcome = first
    process, refused = run(cohort, output, "training.seed=5", "training.epochs=1", "gate.min_mean_dice=0.99")
    assert process.returncode == 3, process.stdout + process.stderr
    assert refused["model"] == outcome["model"]
    assert "refused by the gate" in process.stdout and "wanted at least 0.990" in process.stdout
    newest = max((output / "reports").glob("*/index.html"), key=lambda path: path.parent.name)
    assert "Mean test Dice is" in newest.read_text(encoding="utf-8") and f"refused: {newest}" in process.stdout
    baseline = refused["verdict"]["baseline"]
    assert baseline["version"] == Path(outcome["model"]).name
    same_scans = outcome["verdict"]["overall"]["patient_dice"]
    assert baseline["overall"]["patient_dice"] == pytest.approx(same_scans, abs=1e-9)
    # The listing of examples is untouched by another seed: nothing before Trainer ran again.
    assert {stage["name"] for stage in refused["stages"] if stage.get("cached")} >= {"NiftiExampleGen", "StatisticsGen"}


def test_the_notebook_reads_a_finished_run(
    first: tuple[Path, Any, dict[str, Any]], cohort: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/finished_run.ipynb, cell by cell; one that raises fails the test."""
    output, _, _ = first
    monkeypatch.setenv("ICH_OUTPUT", str(output))
    monkeypatch.setenv("ICH_SCANS", str(cohort / "images"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    notebook = nbformat.read(Path(__file__).parents[1] / "docs" / "finished_run.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # kept without results
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert sum("image/png" in output.get("data", {}) for output in shown) == 2
    text = "\n".join(output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in shown)
    assert "patient_dice" in text and "NiftiExampleGen" in text
