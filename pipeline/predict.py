"""Backend of `ich predict`: scans in, a mask, a report and a picture each out; a bad scan never stops the others."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from components.imaging.errors import IchError, ScanError, UsageError
from components.imaging.nifti import write_bytes, write_mask, write_probability
from pipeline import __version__
from serving.prediction.inputs import Input, Loaded, find_inputs

if TYPE_CHECKING:
    from serving.prediction.outline import Engine, Prediction

Status = Literal["done", "skipped", "refused"]
_ENDS = {"mask": "_mask.nii.gz", "prob": "_prob.nii.gz", "seg": "_seg.dcm", "png": ".png", "json": ".json"}
"""What may be written of a case; the JSON last, so that it says that all is there."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is wanted of every scan.

    Attributes:
        probability: Also write the probabilities.
        dicom_seg: Also write a DICOM segmentation.
        series: Overrides the choice of the series.
        overwrite: Predict anew what is there already.
        force: Outline also what the checks would refuse, where it can be read at all.
        keep_ids: Write the identifiers of DICOM into the JSON.
    """

    probability: bool = False
    dicom_seg: bool = False
    series: str | None = None
    overwrite: bool = False
    force: bool = False
    keep_ids: bool = False

    def kinds(self) -> list[str]:
        """What is written of each case."""
        left_out = {kind for kind, wanted in (("prob", self.probability), ("seg", self.dicom_seg)) if not wanted}
        return [kind for kind in _ENDS if kind not in left_out]


@dataclass(frozen=True)
class Result:
    """What became of one scan.

    Attributes:
        case: Its name.
        status: `done`, `skipped` (it was there already) or `refused`.
        report: Content of its JSON file.
        files: What there is of it, by kind.
        of: How many scans there are in all.
    """

    case: str
    status: Status
    report: dict[str, Any]
    files: dict[str, str]
    of: int

    def line(self) -> str:
        """One line on it."""
        if self.status == "refused":
            return f"{self.case}: no mask: {self.report['reason']}"
        count = self.report["component_count"]
        warned = [one["code"] for one in self.report["findings"] if one["severity"] != "fixed"]
        return (
            f"{self.case}: {self.report['volume_ml']:.1f} ml in {count} component{'' if count == 1 else 's'} "
            f"(model version {self.report['model_version']})"
            + (f", check: {', '.join(dict.fromkeys(warned))}" if warned else "")
            + (" - was there already; --overwrite predicts it anew" if self.status == "skipped" else "")
        )


def predict_all(
    paths: Sequence[Path],
    out: Path,
    engine: Callable[[], Engine],
    options: Options | None = None,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[Result]:
    """Predicts every scan that files, folders and zips hold, one after the other.

    Args:
        paths: NIfTI files, DICOM files or zips, or folders of either.
        out: Folder for the results; made if need be.
        engine: Gives what computes the probabilities; called once, when the first scan needs it.
        options: What is wanted.
        progress: Takes the scans done and those there are.

    Yields:
        Each scan's result, once its files are written.

    Raises:
        UsageError: A path is not there, the model is not, or `out` cannot be written.
        ScanError: A folder or zip holds nothing to predict.
        IchError: The model or the server fails: the next scan would fare no better.
    """
    options = options or Options()
    _refuse_unwritable(out)
    inputs = find_inputs(paths, out)
    if options.dicom_seg and (nifti := [one for one in inputs if not one.is_dicom]):
        raise UsageError(
            f"{nifti[0].path}: is NIfTI, and --dicom-seg needs the DICOM slices to point at; leave it out or give DICOM"
        )
    made: Engine | None = None
    for position, one in enumerate(inputs):
        progress(position, len(inputs))
        files = {kind: out / f"{one.case}{_ENDS[kind]}" for kind in options.kinds()}
        report = None if options.overwrite else _known(files)
        status: Status = "done" if report is None else "skipped"
        try:
            if report is None:
                began = time.monotonic()
                loaded = _load(one, options)
                read = time.monotonic()
                made = made or engine()
                report = _predict(one, loaded, made, files, options, began, read)
        except ScanError as error:
            status, report, files = "refused", *_refused(one, error, out)
        except OSError as error:
            raise _unwritable(out, error) from None
        yield Result(one.case, status, report, {kind: str(file) for kind, file in files.items()}, len(inputs))
    progress(len(inputs), len(inputs))


class RefusedScanError(ScanError):
    """The checks refuse a scan; with all that they found."""

    def __init__(self, code: str, message: str, findings: list[dict[str, Any]]) -> None:
        super().__init__(code, message)
        self.findings = findings


def _load(one: Input, options: Options) -> Loaded:
    """Reads and checks a scan; refuses what must not be outlined."""
    from components.imaging.checks.registry import CHECKS

    loaded = one.load(options.series)
    errors = [finding for finding in loaded.check.findings if finding.severity == "error"]
    hard = [finding for finding in errors if CHECKS[finding.code].fatal or not options.force]
    if hard:
        first, check = hard[0], CHECKS[hard[0].code]
        remedy = "" if check.fatal else f"; {check.remedy} --force outlines it all the same"  # fatal ones say their own
        raise RefusedScanError(first.code, f"{first.message} [{first.code}]{remedy}", _findings(loaded))
    return loaded


def _findings(loaded: Loaded) -> list[dict[str, Any]]:
    return [
        {"code": finding.code, "severity": finding.severity, "message": finding.message}
        for finding in loaded.check.findings
    ]


def _predict(
    one: Input, loaded: Loaded, engine: Engine, files: dict[str, Path], options: Options, began: float, read: float
) -> dict[str, Any]:
    """Outlines a scan and writes what is wanted of it; the report."""
    from serving.prediction.outline import predict_volume
    from serving.prediction.overlay import overlay_png

    volume = loaded.check.volume
    assert volume is not None  # else it was refused
    prediction = predict_volume(engine, volume, one.path, head=loaded.check.head)
    seconds = {"read_and_check": round(read - began, 3), **prediction.report["seconds"]}
    writing = time.monotonic()
    files["json"].unlink(missing_ok=True)  # until it is back, the case is not done
    write_mask(files["mask"], prediction.stored_mask, volume)
    if "prob" in files:
        write_probability(files["prob"], prediction.stored_probability, volume)
    if "seg" in files:
        write_bytes(files["seg"], _segmentation(loaded, prediction))
    canonical = prediction.scan.orientation.to_canonical(volume.data)
    write_bytes(files["png"], overlay_png(canonical, prediction.mask, prediction.scan.geometry.spacing_mm))
    seconds["write"] = round(time.monotonic() - writing, 3)
    report = {
        "case": one.case,
        "status": "done",
        **prediction.report,
        "seconds": seconds,
        "findings": _findings(loaded),
        **({"series": loaded.chosen} if loaded.chosen else {}),
        **({"dicom": _identifiers(loaded)} if options.keep_ids and loaded.dicom else {}),
    }
    write_bytes(files["json"], json.dumps(report, indent=1).encode())
    return report


def _segmentation(loaded: Loaded, prediction: Prediction) -> bytes:
    from serving.prediction.dicom_seg import segmentation

    assert loaded.dicom is not None and loaded.series is not None  # NIfTI was refused before
    return segmentation(
        prediction.stored_mask,
        loaded.dicom,
        loaded.series,
        model=prediction.report["model"],
        model_version=prediction.report["model_version"],
        software_version=__version__,
    )


def _identifiers(loaded: Loaded) -> dict[str, str]:
    assert loaded.series is not None
    return {
        "study_instance_uid": loaded.series.study_uid,
        "series_instance_uid": loaded.series.series_uid,
        "frame_of_reference_uid": loaded.series.frame_of_reference_uid,
    }


def _unwritable(out: Path, error: OSError) -> UsageError:
    return UsageError(f"{out}: cannot write there ({error.strerror}); give another -o")


def _refused(one: Input, error: ScanError, out: Path) -> tuple[dict[str, Any], dict[str, Path]]:
    """Says why in place of a mask, and removes what an earlier run outlined of the case; the report, and its file."""
    report = {
        "case": one.case,
        "status": "refused",
        "code": error.code,
        "reason": str(error),
        "findings": error.findings if isinstance(error, RefusedScanError) else [],
    }
    for kind, end in _ENDS.items():
        if kind != "json":
            (out / f"{one.case}{end}").unlink(missing_ok=True)
    file = out / f"{one.case}{_ENDS['json']}"
    try:
        write_bytes(file, json.dumps(report, indent=1).encode())
    except OSError as problem:
        raise _unwritable(out, problem) from None
    return report, {"json": file}


def _known(files: dict[str, Path]) -> dict[str, Any] | None:
    """The report of a case that is done, with all of its files; else None."""
    if not all(file.is_file() for file in files.values()):
        return None
    try:
        report = json.loads(files["json"].read_text(encoding="utf-8"))
    except ValueError:
        return None
    return report if isinstance(report, dict) and report.get("status") == "done" else None


def open_engine(model: Path, server: str | None) -> AbstractContextManager[Engine]:
    """The model in this process, or on a server; to be entered.

    Args:
        model: A SavedModel, a folder of versions, or the output folder of a run.
        server: URL of a server, which is taken then.

    Raises:
        UsageError: There is no such model, or no such server.
    """
    if server is not None:
        from serving.client.remote import RemoteModel

        return RemoteModel(server)
    from serving.prediction.predictor import Predictor

    return nullcontext(Predictor(model))


def _refuse_unwritable(out: Path) -> None:
    """Raises a UsageError before the slow part; the folder itself is made only when there is something to put in."""
    # os.path, because Path.exists raises where a folder on the way may not be entered.
    nearest = next(path for path in (out, *out.absolute().parents) if os.path.exists(path))  # noqa: PTH110
    if os.path.isfile(out):  # noqa: PTH113
        raise UsageError(f"{out}: is a file, wanted a folder; give another -o")
    if not (nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)):
        raise UsageError(f"{out}: cannot write there ({nearest} is no writable folder); give another -o")


def failed(results: Sequence[Result]) -> IchError | None:
    """What a command of these results ends with; None where each scan has its mask."""
    refused = [one for one in results if one.status == "refused"]
    if not refused:
        return None
    if len(results) == 1:
        return ScanError(refused[0].report["code"], refused[0].report["reason"])
    return UsageError(
        f"{len(refused)} of {len(results)} scans have no mask: {', '.join(one.case for one in refused[:20])}"
        + (" and more" if len(refused) > 20 else "")
        + "; the reasons are above and in their JSON files"
    )
