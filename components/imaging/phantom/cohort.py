"""A folder of generated scans: layouts by pattern, several processes, the same bytes for the same request."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from components.imaging.errors import UsageError
from components.imaging.phantom import nifti
from components.imaging.phantom.acquisition import Size
from components.imaging.phantom.defects import DEFECTS, Case, plant
from components.imaging.phantom.patient import Phantom, generate_patient

RECORD = "cohort.json"
TABLE = "cohort.csv"
MANIFEST = "manifest.csv"
# Part of the request: cohorts of another generator are not taken for this one's.
GENERATOR = 1
# By patient number, so that a cohort's splits do not depend on its size; all three are there from five patients on.
_SPLITS = ("train", "train", "test", "train", "val", "train", "train", "test", "train", "train")


@dataclass(frozen=True)
class CaseRecord:
    """What is known of one written case; paths are relative to the cohort's folder, volumes in ml.

    `bytes` holds the size of each file that was written, by path.
    """

    case_id: str
    patient_id: str
    image: str
    mask: str
    split: str
    defect: str
    kinds: tuple[str, ...]
    volumes_ml: tuple[float, ...]
    codes: str
    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    tilt_deg: float
    dtype: str
    slope: float
    inter: float
    seed: int
    index: int
    bytes: dict[str, int]


@dataclass(frozen=True)
class CohortSummary:
    """A cohort on disk.

    Attributes:
        out: Its folder.
        cases: One record a case, in order: patients, then defects.
        written: Number of cases written by this call; the others were there.
    """

    out: Path
    cases: tuple[CaseRecord, ...]
    written: int


@dataclass(frozen=True)
class _Job:
    case_id: str
    patient_id: str
    image: str
    mask: str
    split: str
    index: int
    defect: str


# Folder, case, the first case (some defects copy it), seed, size.
_Argument: TypeAlias = tuple[Path, _Job, _Job, int, Size]


def write_cohort(
    out: Path,
    *,
    patients: int,
    seed: int,
    image_pattern: str = "images/{case}.nii.gz",
    mask_pattern: str = "masks/{case}.nii.gz",
    manifest: bool = False,
    size: Size = "small",
    defects: Sequence[str] = (),
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> CohortSummary:
    """Write a cohort, or complete or confirm the one that the same request left there.

    Args:
        out: Folder; created when missing.
        patients: Number of sound cases, named 001, 002, ...
        seed: The cohort's seed; patient i of a seed is the same in every cohort.
        image_pattern: Path of an image below `out`, with `{case}` and, if wished, `{patient}`.
        mask_pattern: The same for masks.
        manifest: Also write `manifest.csv` (case_id, patient_id, image, mask, split).
        size: Matrix and slices, see `generate_patient`.
        defects: Names from `DEFECTS`, or "all"; each adds one case named after it.
        workers: Processes; the files do not depend on it.
        progress: Called with cases done and cases in all.

    Returns:
        The cases and how many of them had to be written.

    Raises:
        UsageError: A bad argument, or a folder that holds something else.
    """
    names = _check(patients, seed, image_pattern, mask_pattern, defects, workers)
    manifest = manifest or any(DEFECTS[name].needs_manifest for name in names)
    request = {
        "generator": GENERATOR,
        "patients": patients,
        "seed": seed,
        "image_pattern": image_pattern,
        "mask_pattern": mask_pattern,
        "manifest": manifest,
        "size": size,
        "defects": names,
    }
    known = _known_cases(out, request)
    jobs = _jobs(patients, names, image_pattern, mask_pattern)
    records = {job.case_id: known[job.case_id] for job in jobs if job.case_id in known}
    todo = [job for job in jobs if job.case_id not in records]
    if not todo and known:
        return CohortSummary(out, tuple(records[job.case_id] for job in jobs), 0)
    out.mkdir(parents=True, exist_ok=True)
    # The request goes first: an interrupted cohort can be completed, not mistaken for a stranger's folder.
    _write_record(out, request, records.values())
    done = len(records)
    # Defects may copy the first case, so they come after the patients.
    for defective in (False, True):
        group = [(out, job, jobs[0], seed, size) for job in todo if bool(job.defect) == defective]
        for record in _run(group, workers):
            records[record.case_id] = record
            done += 1
            if progress is not None:
                progress(done, len(jobs))
    ordered = tuple(records[job.case_id] for job in jobs)
    _write_table(out, ordered)
    if manifest:
        _write_manifest(out, ordered)
    _write_record(out, request, ordered)
    return CohortSummary(out, ordered, len(todo))


def _check(
    patients: int, seed: int, image_pattern: str, mask_pattern: str, defects: Sequence[str], workers: int
) -> list[str]:
    if patients < 1:
        raise UsageError(f"phantom: {patients} patients asked for; ask for at least 1")
    if seed < 0:
        raise UsageError(f"phantom: seed {seed} is negative; give a whole number from 0")
    if workers < 1:
        raise UsageError(f"phantom: {workers} workers asked for; ask for at least 1")
    for name, pattern in (("image", image_pattern), ("mask", mask_pattern)):
        try:
            path = Path(pattern.format(case="001", patient="001"))
        except (KeyError, IndexError, ValueError):
            path = Path("..")
        if "{case}" not in pattern or path.is_absolute() or ".." in path.parts:
            raise UsageError(
                f"phantom: {name} pattern {pattern!r} cannot be used; give a path below the folder with {{case}} "
                "and, if wished, {patient}, for example images/{case}.nii.gz"
            )
        if not path.name.endswith((".nii", ".nii.gz")):
            raise UsageError(f"phantom: {name} pattern {pattern!r} must end in .nii or .nii.gz")
    if image_pattern == mask_pattern:
        raise UsageError(f"phantom: image and mask share the pattern {image_pattern!r}; give two")
    unknown = [name for name in defects if name != "all" and name not in DEFECTS]
    if unknown:
        raise UsageError(f"phantom: unknown defect {unknown[0]!r}; use 'all' or some of {', '.join(DEFECTS)}")
    return [name for name in DEFECTS if name in defects or "all" in defects]


def _jobs(patients: int, defects: Sequence[str], image_pattern: str, mask_pattern: str) -> list[_Job]:
    named = [(f"{i + 1:03d}", f"p{i + 1:03d}", _SPLITS[i % len(_SPLITS)], i, "") for i in range(patients)]
    for name in defects:
        again = name == "same-patient-two-splits"
        patient, split = (named[0][1], "test") if again else (f"p-{name}", "train")
        named.append((name, patient, split, -1, name))
    return [
        _Job(
            case,
            patient,
            image_pattern.format(case=case, patient=patient),
            mask_pattern.format(case=case, patient=patient),
            split,
            index,
            defect,
        )
        for case, patient, split, index, defect in named
    ]


def _run(arguments: Sequence[_Argument], workers: int) -> Iterator[CaseRecord]:
    """Write the cases, in other processes when there are enough of them; the order is free."""
    if workers == 1 or len(arguments) < 3:
        yield from (_write_case(argument) for argument in arguments)
        return
    # Spawned, not forked: the caller may hold threads.
    with ProcessPoolExecutor(min(workers, len(arguments)), mp_context=get_context("spawn")) as pool:
        pending = [pool.submit(_write_case, argument) for argument in arguments]
        try:
            for future in as_completed(pending):
                yield future.result()
        finally:
            for future in pending:
                future.cancel()


def _write_case(argument: _Argument) -> CaseRecord:
    out, job, first, seed, size = argument
    image, mask = out / job.image, out / job.mask
    if job.defect:
        case = Case(image, mask, sound_image=out / first.image, sound_mask=out / first.mask)
        phantom = plant(job.defect, seed, size, case)
    else:
        phantom = generate_patient(seed, job.index, size=size)
        nifti.write(image, nifti.encode(phantom.stored(), phantom.affine, phantom.storage))
        nifti.write(mask, nifti.encode(phantom.mask, phantom.affine))
    return _record(out, job, phantom)


def _record(out: Path, job: _Job, phantom: Phantom) -> CaseRecord:
    spacing = np.linalg.norm(phantom.affine[:3, :3], axis=0)
    return CaseRecord(
        case_id=job.case_id,
        patient_id=job.patient_id,
        image=job.image,
        mask=job.mask,
        split=job.split,
        defect=job.defect,
        kinds=phantom.kinds,
        volumes_ml=tuple(round(volume, 4) for volume in phantom.volumes_ml),
        codes=phantom.acquisition.codes,
        shape=phantom.hu.shape,
        spacing_mm=tuple(round(float(mm), 4) for mm in spacing),
        tilt_deg=phantom.acquisition.tilt_deg,
        dtype=phantom.storage.dtype,
        slope=phantom.storage.slope,
        inter=phantom.storage.inter,
        seed=phantom.seed,
        index=phantom.index,
        bytes={name: (out / name).stat().st_size for name in (job.image, job.mask) if (out / name).exists()},
    )


def _known_cases(out: Path, request: dict[str, Any]) -> dict[str, CaseRecord]:
    """Cases that an earlier call with the same request left whole in `out`."""
    if not out.exists():
        return {}
    if not out.is_dir():
        raise UsageError(f"phantom: {out} is a file; give a folder")
    record = out / RECORD
    if not record.exists():
        if any(out.iterdir()):
            raise UsageError(
                f"phantom: {out} is not empty and holds no {RECORD}; give an empty or a new folder, "
                "since nothing is written over"
            )
        return {}
    try:
        content = json.loads(record.read_text())
        earlier, cases = content["request"], [_case_from(case) for case in content["cases"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"phantom: {record} cannot be read ({error}); remove the folder or give another") from error
    changed = [key for key in request if earlier.get(key) != request[key]]
    if changed:
        found = ", ".join(f"{key} {_short(earlier.get(key))} (now {_short(request[key])})" for key in changed)
        raise UsageError(f"phantom: {out} holds another cohort: {found}; remove the folder or give another")
    return {case.case_id: case for case in cases if _is_whole(out, case)}


def _short(value: object) -> str:
    return f"[{len(value)} names]" if isinstance(value, list) and len(value) > 3 else repr(value)


def _case_from(values: dict[str, Any]) -> CaseRecord:
    loaded: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
    return CaseRecord(**loaded)


def _is_whole(out: Path, case: CaseRecord) -> bool:
    return all((out / name).is_file() and (out / name).stat().st_size == size for name, size in case.bytes.items())


def _write_record(out: Path, request: dict[str, Any], cases: Iterable[CaseRecord]) -> None:
    content = {"request": request, "cases": [asdict(case) for case in cases]}
    nifti.write_bytes(out / RECORD, (json.dumps(content, indent=1) + "\n").encode())


def _write_table(out: Path, cases: Sequence[CaseRecord]) -> None:
    rows = []
    for case in cases:
        row = {key: value for key, value in asdict(case).items() if key != "bytes"}
        rows.append({key: " ".join(map(str, v)) if isinstance(v, tuple) else v for key, v in row.items()})
    _write_csv(out / TABLE, list(rows[0]), rows)


def _write_manifest(out: Path, cases: Sequence[CaseRecord]) -> None:
    columns = ["case_id", "patient_id", "image", "mask", "split"]
    _write_csv(out / MANIFEST, columns, [{name: getattr(case, name) for name in columns} for case in cases])


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    nifti.write_bytes(path, text.getvalue().encode())
