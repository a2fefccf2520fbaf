"""What a user can do wrong: the command, and what the message must say. One table for all commands."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from pipeline.lock import FILE_NAME as LOCK
from tests.models import unloadable

SCAN, MASK = "cohort/images/001.nii.gz", "cohort/masks/001.nii.gz"
RUN = ("-d", "cohort", "-o", "out")

Make = Callable[[Path], list[object]]
"""Prepares the working folder, which holds a sound cohort of three cases; gives the command line."""


@dataclass(frozen=True)
class Mistake:
    """A mistake.

    Attributes:
        make: What the user does.
        words: What the message must hold.
        code: The exit code.
    """

    make: Make
    words: tuple[str, ...]
    code: int = 2


def of(command: str | Make, *words: str, code: int = 2) -> Mistake:
    """A mistake; a command that needs nothing prepared may be given as a text."""
    if isinstance(command, str):
        arguments = [word.replace("␣", " ") for word in command.split()]
        return Mistake(lambda place: list(arguments), words, code)
    return Mistake(command, words, code)


def sets(*settings: str, config: str = "demo") -> Make:
    """`ich config` with settings."""
    return lambda place: ["config", config, *(part for one in settings for part in ("--set", one))]


def reads(text: str) -> Make:
    """`ich config` of a file with this text."""

    def make(place: Path) -> list[object]:
        (place / "c.yaml").write_text(text)
        return ["config", "c.yaml"]

    return make


def layout(text: str, command: str = "check cohort -c c.yaml") -> Make:
    """`ich check` with this section `data`."""

    def make(place: Path) -> list[object]:
        (place / "c.yaml").write_text(f"name: c\ndata: {text}\n")
        return list(command.split())

    return make


def manifest(text: str | bytes) -> Make:
    """`ich check` of a manifest with this text."""

    def make(place: Path) -> list[object]:
        (place / "cohort" / "manifest.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
        return ["check", "cohort"]

    return make


def scan(change: Callable[[Any], None] | None = None, data: np.ndarray | None = None, cut: Any = None) -> Make:
    """`ich evaluate` of a file: a sound one whose header was changed, or its bytes."""

    def make(place: Path) -> list[object]:
        image = nib.Nifti1Image(np.ones((4, 4, 3), np.int16) if data is None else data, np.eye(4))
        body = bytearray(image.to_bytes())
        if change is not None:
            header = np.frombuffer(body, nib.Nifti1Header.template_dtype, 1)
            header = header.copy()
            change(header[0])
            body[:348] = header.tobytes()
        content = bytes(body) if cut is None else cut(bytes(body))
        (place / "bad.nii").write_bytes(content)
        return ["evaluate", "bad.nii", MASK]

    return make


def renamed(old: str, new: str, command: str) -> Make:
    """A file or folder of the cohort has another name."""

    def make(place: Path) -> list[object]:
        (place / new).parent.mkdir(parents=True, exist_ok=True)
        (place / old).rename(place / new)
        return list(command.split())

    return make


def copied(*places: tuple[str, str], command: str) -> Make:
    """Files of the cohort lie in further places."""

    def make(place: Path) -> list[object]:
        for old, new in places:
            (place / new).parent.mkdir(parents=True, exist_ok=True)
            (place / new).write_bytes((place / old).read_bytes())
        return [word.replace("␣", " ") for word in command.split()]

    return make


def holding(path: str, text: str, command: str) -> Make:
    """A file with this text is there."""

    def make(place: Path) -> list[object]:
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_text(text)
        return list(command.split())

    return make


def emptied(folder: str, command: str) -> Make:
    """An empty folder is there."""

    def make(place: Path) -> list[object]:
        (place / folder).mkdir(parents=True)
        return list(command.split())

    return make


def other_masks(command: str, shape: tuple[int, ...] = (8, 8, 4), *, cases: tuple[str, ...] = ("001", "002", "003")) -> Make:  # noqa: E501 # fmt: skip
    """A folder of masks on another grid."""

    def make(place: Path) -> list[object]:
        (place / "p").mkdir()
        for case in cases:
            nib.save(nib.Nifti1Image(np.zeros(shape, np.uint8), np.eye(4)), place / "p" / f"{case}.nii.gz")
        return list(command.split())

    return make


def moved_mask(place: Path) -> list[object]:
    image: Any = nib.load(place / MASK)
    affine = np.array(image.affine)
    affine[0, 3] += 9
    nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj), affine), place / "moved.nii.gz")
    return ["evaluate", "moved.nii.gz", MASK]


def corrupt_scan(place: Path) -> list[object]:
    sound = (place / SCAN).read_bytes()
    (place / "bad.nii.gz").write_bytes(sound[: len(sound) // 2])
    unloadable(place / "model")
    return ["predict", "bad.nii.gz", "-o", "out", "-m", "model"]


def reason_in_the_way(place: Path) -> list[object]:
    (place / "out" / "bad.json").mkdir(parents=True)
    return corrupt_scan(place)


def refused_scans(place: Path) -> list[object]:
    """Two of three, which the checks refuse."""
    (place / "in").mkdir()
    for name in ("a", "b"):
        (place / "in" / f"{name}.nii.gz").write_bytes(b"no scan")
    unloadable(place / "model")
    return ["predict", "in", "-o", "out", "-m", "model"]


def air(place: Path) -> list[object]:
    nib.save(nib.Nifti1Image(np.full((64, 64, 8), -1000, np.int16), np.diag([3, 3, 5, 1])), place / "air.nii.gz")
    unloadable(place / "model")
    return ["predict", "air.nii.gz", "-o", "out", "-m", "model"]


def no_contract(place: Path) -> list[object]:
    unloadable(place / "model")
    (place / "model" / "assets.extra" / "contract.json").unlink()
    return ["predict", SCAN, "-o", "out", "-m", "model"]


def contract_says(change: Callable[[dict[str, Any]], None]) -> Make:
    """The model's contract is another one."""

    def make(place: Path) -> list[object]:
        unloadable(place / "model")
        file = place / "model" / "assets.extra" / "contract.json"
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))
        return ["predict", SCAN, "-o", "out", "-m", "model"]

    return make


def no_network(place: Path) -> list[object]:
    unloadable(place / "model")
    return ["predict", SCAN, "-o", "out", "-m", "model"]


def segmentation_of_nifti(place: Path) -> list[object]:
    unloadable(place / "model")
    return ["predict", SCAN, "-o", "out", "-m", "model", "--dicom-seg"]


def two_names_alike(place: Path) -> list[object]:
    for folder in ("a/x", "b/x"):
        (place / folder).mkdir(parents=True)
        (place / folder / "s.nii.gz").write_bytes((place / SCAN).read_bytes())
    return ["predict", "a/x/s.nii.gz", "b/x/s.nii.gz", "-o", "out"]


def two_models(command: str) -> Make:
    """Two models are in service."""

    def make(place: Path) -> list[object]:
        for name in ("ich", "other"):
            unloadable(place / "output" / "serving" / name / "1")
        return list(command.split())

    return make


def in_service(command: str, *versions: int, blocked: bool = False) -> Make:
    """Versions are in service, each of another export."""

    def make(place: Path) -> list[object]:
        folder = place / "output" / "serving" / "ich"
        for number in versions:
            unloadable(folder / str(number), data_fingerprint=str(number))
        if blocked:
            (folder / "models.config").mkdir()
        return list(command.split())

    return make


def a_run_under_way(place: Path) -> list[object]:
    import fcntl
    import weakref

    (place / "out").mkdir()
    file = (place / "out" / LOCK).open("w")
    file.write("20260101T000000")
    file.flush()
    fcntl.flock(file, fcntl.LOCK_EX)
    arguments = _Held(["run", "-c", "demo", *RUN])
    weakref.finalize(arguments, file.close)  # with the command line, when that is done with
    return arguments


class _Held(list[object]):
    """A command line that something may hang on."""


def _flip_kind(content: dict[str, Any]) -> None:
    content["format"] = 99


NIFTI_WORDS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty file": (lambda body: b"", "the file is empty"),
    "no NIfTI": (lambda body: b"\x89PNG" + body[4:], "not a NIfTI file; convert it"),
    "header cut off": (lambda body: body[:200], "ends within its header"),
    "voxels cut off": (lambda body: body[:-40], "bytes of voxels, the header claims"),
    "voxels cut off, zipped": (lambda body: gzip.compress(body[:-40]), "bytes of voxels, the header claims"),
    "zip cut off": (lambda body: gzip.compress(body)[:-30], "copy the file anew"),
    "zip damaged": (lambda body: b"\x1f\x8b\x08\x00" + b"\x07" * 400, "cannot be read ("),
    "more behind": (
        lambda body: gzip.compress(body + bytes(65 * 2**20), 1),
        "follow the voxels that the header claims",
    ),
}


def _put(name: str, value: Any) -> Callable[[Any], None]:
    def change(header: Any) -> None:
        header[name] = value

    return change


def _nan_affine(header: Any) -> None:
    header["srow_x"] = [np.nan, 0, 0, 0]


def _flat(header: Any) -> None:
    header["srow_x"] = [0, 0, 0, 0]


def _no_affine(header: Any) -> None:
    header["sform_code"], header["qform_code"] = 0, 1
    header["quatern_b"] = header["quatern_c"] = header["quatern_d"] = 2.0


SOURCES = "{sources: {a: {image: 'a/{case}.nii.gz', mask: 'b/{case}.nii.gz'}, %s}}"

SCANS_TWICE = [
    (file, f"d/p{patient}/s{number}/{name}.nii.gz")
    for patient in (1, 2)
    for number in (1, 2)
    for file, name in ((SCAN, "ct"), (MASK, "mask"))
]
"""Two patients whose scans have the same names, for which no pattern makes case ids."""

PATIENTS = "--set data.image=images/{patient}/{case}.nii.gz --set data.mask=masks/{patient}/{case}.nii.gz"
SPACE = "{learning_rate: null, cross_entropy_weight: null, miss_weight: null, base_filters: null}"
TWICE = (
    "{sources: {a: {image: 'images/{case}.nii.gz', mask: 'masks/{case}.nii.gz'}, "
    "b: {image: 'images/{case}.nii.gz', mask: 'masks/{case}.nii.gz'}}}"
)
DATES = "--set data.image='{YYYY}-{MM}-{DD}/i/{case}.nii.gz' --set data.mask='{YYYY}-{MM}-{DD}/m/{case}.nii.gz'"
NO_PATTERNS = "--set data.image=null --set data.mask=null"

MISTAKES: dict[str, Mistake] = {
    # --- configuration: the file
    "no such config": of("run -c nope -d cohort -o out", "nope: no such config", "demo"),
    "bad YAML": of(reads("name: [a\n"), "c.yaml: not valid YAML"),
    "YAML of another kind": of(reads("- a\n"), "c.yaml: found list, wanted a mapping of sections"),
    "unknown key": of(
        "run -c demo --set training.epoch=3 -d cohort -o out", "training.epoch: unknown key", "did you mean epochs?"
    ),
    "key missing": of(reads("name: a\n"), "data: missing"),
    "wrong type": of(sets("training.epochs=many"), "training.epochs: found 'many' (str)"),
    "--set without value": of(
        "run -c demo --set training.epochs -d cohort -o out", "--set training.epochs: wanted key.path=value"
    ),
    "--set that is no YAML": of(sets("name=[a"), "--set name=[a", "is not valid YAML; quote it"),
    "--set below a value": of(sets("name.x=1"), "--set name.x=1: name is no section"),
    "--set without config": of("config --set name=x", "--set needs a config", "demo"),
    # --- configuration: layout
    "placeholder unknown": of(
        sets("data.image=i/{case}{foo}.nii.gz"), "data.image", "may contain no placeholder but {case}"
    ),
    "layout outside": of(sets("data.image=../{case}.nii.gz"), "must be relative to the data folder"),
    "layout without case": of(sets("data.image=i/x.nii.gz"), "must contain {case} once"),
    "patient no expression": of(sets("data.patient='('"), "data.patient", "must be a regular expression"),
    "patient without group": of(sets("data.patient=abc"), "must have a group that holds the patient id"),
    "manifest and patterns": of(sets("data.manifest=m.csv"), "give either manifest or image and mask"),
    "no mask pattern": of(sets("data.mask=null"), "needs image and mask patterns, or a manifest"),
    "spans unlike": of(sets("data.image='s-{SPAN}/{case}.nii.gz'"), "image and mask must tell spans alike"),
    "span twice": of(sets("data.image='{SPAN}/{SPAN}/{case}.nii.gz'"), "only once"),
    "date incomplete": of(sets("data.image='{YYYY}/{case}.nii.gz'"), "may tell spans by {SPAN} or by all of"),
    "spans untold": of(sets("data.spans=2"), "spans: found 2, but the layout tells no spans apart"),
    "check unknown": of(sets("data.checks.mask-shap=off"), "mask-shap is no check; did you mean mask-shape?"),
    "check that must be": of(sets("data.checks.mask-shape=off"), "mask-shape cannot be off"),
    "source's name": of(layout(SOURCES % "'B c': {manifest: m.csv}"), "wanted a name of up to 31 small letters"),
    "sources' names clash": of(layout(SOURCES % "a_b: {manifest: m.csv}"), "a and a_b might make one case id of two"),
    "sources and a layout": of(sets("data.manifest=m.csv", config="real_mixed"), "give either sources or one layout"),
    "sources' spans": of(layout(SOURCES % "c: {manifest: '{SPAN}.csv'}"), "all sources must tell spans alike"),
    # --- configuration: values
    "shares of splits": of(sets("splits.train=50"), "train + val + test must be 100, found 80"),
    "supervises nothing": of(
        sets("network.deep_supervision=true", "network.depth=2"), "deep_supervision: found 1 levels"
    ),
    "no loss": of(sets("training.dice_weight=0.0", "training.cross_entropy_weight=0.0"), "must not both be 0"),
    "range upside down": of(sets("tuner.space.learning_rate=[1.0e-2, 1.0e-3]"), "wanted the lower end first"),
    "no choice": of(sets("tuner.space.base_filters=[16, 16]"), "wanted two different numbers or more"),
    "nothing to search": of(sets("tuner.enabled=true", f"tuner.space={SPACE}"), "space: found nothing to search"),
    "too few trials": of(
        sets("tuner.enabled=true", "tuner.algorithm=hyperband", "tuner.trials=1"), "trials: found 1, wanted"
    ),
    "no loss to search": of(
        sets("tuner.enabled=true", "tuner.space.dice_weight=[0.0, 1.0]", "tuner.space.cross_entropy_weight=[0.0, 1.0]"),
        "could both become 0",
    ),
    "HU upside down": of(sets("postprocess.hu_range=[110.0, 20.0]"), "wanted the lower HU first"),
    "core below": of(
        sets("postprocess.core_threshold=0.1"), "core_threshold: found 0.1, wanted the threshold 0.5 or more"
    ),
    "slice unknown": of(sets("gate.slices.smal=0.3"), "smal is no slice; did you mean small?"),
    "shares of no source": of(sets("training.source_shares.a=1.0"), "training.source_shares: found a", "leave it out"),
    "windows alike": of(
        sets("windows=[{name: a, level: 1.0, width: 2.0}, {name: a, level: 1.0, width: 2.0}]"),
        "windows: names must differ",
    ),
    "grid and depth": of(sets("grid.size=100"), "grid.size: found 100", "multiple of"),
    "too deep": of(sets("network.depth=7"), "network.depth: found 7, too deep for grid.size 128"),
    "too much attention": of(sets("network.bottleneck=attention", "grid.size=2048"), "takes too much memory"),
    "3d with neighbours": of(
        sets("network.kind=3d", "grid.context_slices=1"), "grid.context_slices: found 1, but network.kind is 3d"
    ),
    "3d without slices": of(
        sets("network.kind=3d", "training.min_lesion_cm2=1.0"), "training.min_lesion_cm2: found 1.0, but"
    ),
    "patch's slices": of(
        sets("network.kind=3d", "training.patch_slices=3"), "training.patch_slices: found 3, wanted a multiple of 4"
    ),
    "patch's size": of(
        sets("network.kind=3d", "training.patch_size=40"), "training.patch_size: found 40, wanted a multiple of 16"
    ),
    # --- run: folders
    "no data folder given": of("run -c demo -o out", "no data folder", "--data"),
    "no output folder given": of("run -c demo -d cohort", "no output folder", "--output"),
    "data in a bucket": of(
        "run -c demo -d s3://scans/head -o out",
        "--data: found s3://scans/head, wanted a folder of this machine",
        "docs/KUBEFLOW.md",
    ),
    "output in a bucket": of(
        "run -c demo -d cohort --set output.root=gs://models",
        "--output: found gs://models, wanted a folder of this machine",
    ),
    "unknown Beam runner": of("config demo --set beam.runner=Fleet", "beam.runner: found 'Fleet'", "no such runner"),
    "Beam runner of no package": of("config demo --set beam.runner=no_such.Runner", "no package no_such is installed"),
    "workers without use": of("config demo --set beam.workers=2", "takes no number of workers"),
    "runner among arguments": of("config demo --set beam.args=[--runner=Flink]", "set beam.runner instead"),
    "Beam argument without dashes": of("config demo --set beam.args=[region]", "wanted an option such as"),
    "artifacts in no bucket": of("config demo --set kubeflow.pipeline_root=/mnt", "a URI that the cluster can write"),
    "no URL of an API": of("config demo --set kubeflow.host=kubeflow", "must be the API's URL"),
    "nothing to thin out": of("gc --keep 2 -o cohort", "cohort: found no run there"),
    "data folder missing": of("run -c demo -d nope -o out", "nope: no such data folder"),
    "data folder is a file": of(f"run -c demo -d {SCAN} -o out", "no such data folder"),
    "data folder empty": of(
        emptied("empty", "run -c demo -d empty -o out"), "empty: no complete case found", "holds no .nii"
    ),
    "other layout": of(
        "run -c ct_ich -d cohort -o out", "cohort: no complete case found", "{case}/image.nii.gz", "images/00"
    ),
    "no masks": of(
        renamed("cohort/masks", "cohort/labels", "run -c demo -d cohort -o out"),
        "no complete case found",
        "3 incomplete",
        "has no mask, wanted",
        "masks/001",
    ),
    "empty split": of(
        lambda place: ["run", "-c", "demo", *RUN, "--set", "splits={train: 98, val: 1, test: 1}"],
        "splits: patients per split are train 2, val 0, test 1",
        "at least one in each",
    ),
    "output is a file": of(
        holding("out", "mine", "run -c demo -d cohort -o out"), "out: cannot write there", "--output"
    ),
    "output below a file": of(f"run -c demo -d cohort -o {SCAN}/out", "cannot write there", "--output"),
    "force and wait": of(
        "run -c demo -d cohort -o out --force --if-new-data", "--force and --if-new-data: contradict each other"
    ),
    "a second run": of(a_run_under_way, "out: a run (20260101T000000) is under way", "--output"),
    "too many folds": of("run -c demo -d cohort -o out --folds 11", "training.folds: found 11"),
    # --- layouts that do not fit
    "case id twice": of(
        copied(
            (SCAN, "cohort/images/p1/001.nii.gz"),
            (SCAN, "cohort/images/p2/001.nii.gz"),
            (MASK, "cohort/masks/p1/001.nii.gz"),
            command=f"run -c demo -d cohort -o out {PATIENTS}",
        ),
        "case id 001 is also that of",
        "refine the pattern",
    ),
    "patient unmatched": of(
        "run -c demo -d cohort -o out --set data.patient=^P([0-9]+)",
        "data.patient: '^P([0-9]+)' does not match the case id 001",
    ),
    "no date": of(
        copied(
            (SCAN, "d/2024-13-40/i/1.nii.gz"),
            (MASK, "d/2024-13-40/m/1.nii.gz"),
            command=f"run -c demo -d d -o out {DATES}",
        ),
        "2024-13-40 is no date; rename the folder",
    ),
    "one scan, two sources": of(layout(TWICE), "is a scan of the sources a and b"),
    "no manifest": of(layout("{manifest: m.csv}"), "m.csv: no such manifest (data.manifest)"),
    "spans alike": of(
        copied(
            (SCAN, "cohort/l1.csv"),
            (SCAN, "cohort/l01.csv"),
            command=f"check cohort -c demo {NO_PATTERNS} --set data.manifest=l{{SPAN}}.csv",
        ),
        "is of the same span as",
    ),
    "manifest no text": of(manifest(b"\xff\xfe\x00"), "not a CSV file in UTF-8"),
    "manifest's columns": of(manifest("a,b\n"), "lacks the columns case_id, image, mask"),
    "manifest's case": of(
        manifest(f"case_id,image,mask\na/b,{SCAN},{MASK}\n"), "line 2: case_id 'a/b' must be a name without /"
    ),
    "manifest's split": of(
        manifest("case_id,image,mask,split\na,i,m,holdout\n"), "line 2: split 'holdout', wanted train, val, test"
    ),
    "manifest's case twice": of(manifest("case_id,image,mask\na,i,m\na,i,m\n"), "case_id a stands on several lines"),
    # --- predict
    "no such scan": of("predict nope.nii.gz -o out -m m", "nope.nii.gz: no such scan"),
    "no model": of(f"predict {SCAN} -o out -m m", "m: no model there", "ich run"),
    "default model missing": of(f"predict {SCAN} -o out", "output: no model there"),
    "several models": of(two_models(f"predict {SCAN} -o out"), "output: holds 2 models; give one with --model"),
    "not our model": of(no_contract, "model: ", "contract"),
    "contract of a later program": of(contract_says(_flip_kind), "has format 99, this program reads"),
    "contract incomplete": of(
        contract_says(lambda content: content.pop("grid_size")), "the model's contract is incomplete"
    ),
    "model cannot be loaded": of(no_network, "the model cannot be loaded", "push it again"),
    "corrupt scan": of(corrupt_scan, "bad.nii.gz: ", "copy"),
    "reason that cannot be written": of(reason_in_the_way, "out: cannot write there", "give another -o"),
    "scans refused": of(refused_scans, "2 of 2 scans have no mask: a, b"),
    "no head in it": of(air, "air.nii.gz", "--force outlines it all the same"),
    "segmentation of NIfTI": of(segmentation_of_nifti, "is NIfTI, and --dicom-seg needs the DICOM slices"),
    "names alike": of(two_names_alike, "both would be written as x_s", "two folders"),
    "mask folder is a file": of(f"predict {SCAN} -o {SCAN} -m m", "is a file, wanted a folder"),
    "mask folder below a file": of(f"predict {SCAN} -o {SCAN}/x -m m", "is no writable folder"),
    "server's URL": of(
        f"predict {SCAN} -o out --server ftp://host", "ftp://host: not the URL of a server (found scheme 'ftp')"
    ),
    "server's port": of(f"predict {SCAN} -o out --server grpc://host:x", "grpc://host:x: not the URL of a server"),
    "server's password": of(f"predict {SCAN} -o out --server http://me:secret@host", "holds a user's name or password"),
    "no server": of(f"predict {SCAN} -o out --server http://127.0.0.1:1", "the server cannot be reached"),
    "no scan in the folder": of(emptied("empty", "predict empty -o out"), "empty"),
    # --- evaluate
    "no predictions": of("evaluate nope cohort/masks", "nope: no such file or folder"),
    "file against folder": of(f"evaluate {SCAN} cohort/masks", "one is a file and one a folder"),
    "pattern for files": of(
        f"evaluate {MASK} {MASK} --truth-pattern {{case}}.nii.gz", "truth pattern", "patterns are for folders"
    ),
    "pattern without case": of(
        "evaluate cohort/masks cohort/masks --truth-pattern x.nii.gz", "wanted a path below the folder with {case}"
    ),
    "pattern of nothing": of(
        "evaluate cohort/masks cohort/masks --truth-pattern x{case}.nii.gz", "no file matches the pattern"
    ),
    "nothing to compare": of(emptied("empty", "evaluate empty cohort/masks"), "empty: no .nii or .nii.gz file"),
    "which masks": of(
        copied((MASK, "t/001/gt.nii.gz"), (MASK, "t/001/mask.nii.gz"), (MASK, "p/001.nii.gz"), command="evaluate p t"),
        "which files are the masks? Give one of the patterns",
    ),
    "two files a case": of(
        copied((MASK, "t/001.nii"), (MASK, "t/001.nii.gz"), command="evaluate t cohort/masks"),
        "two files for case '001'",
    ),
    "other cases": of(other_masks("evaluate p cohort/masks", cases=("900",)), "no case in common", "900", "001"),
    "predictions missing": of(
        copied((MASK, "p/001.nii.gz"), command="evaluate p cohort/masks"), "no prediction for 2 of 3 cases", "002"
    ),
    "another shape": of(other_masks("evaluate p cohort/masks"), "001.nii.gz: shape (8, 8, 4)", "(64, 64, 5)"),
    "another place": of(moved_mask, "affine differs from that of", "resample the prediction"),
    "images for masks": of("evaluate cohort/images cohort/masks", "wanted a mask", "is this the image?"),
    "JSON that cannot be written": of(
        f"evaluate cohort/masks cohort/masks --json {SCAN}/x.json", "cannot write there", "--json"
    ),
    # --- any scan
    **{name: of(scan(cut=cut), "bad.nii: ", text) for name, (cut, text) in NIFTI_WORDS.items()},
    "pair of files": of(scan(_put("magic", b"ni1\0")), "no single-file NIfTI"),
    "extensions": of(scan(_put("vox_offset", 1e9)), "header extensions of"),
    "no dimensions": of(scan(_put("dim", [3, 0, 4, 3, 1, 1, 1, 1])), "are impossible"),
    "four dimensions": of(scan(data=np.zeros((3, 3, 3, 2), np.int16)), "wanted one 3D volume"),
    "too large": of(scan(_put("dim", [3, 2000, 2000, 2000, 1, 1, 1, 1])), "voxels, allowed"),
    "colours": of(scan(data=np.zeros((3, 3, 3), [("R", "u1"), ("G", "u1"), ("B", "u1")])), "wanted integers or floats"),
    "no affine": of(scan(_no_affine), "no usable affine"),
    "affine of nothing": of(scan(_nan_affine), "the affine holds NaN"),
    "flat": of(scan(_flat), "spacing", "convert the scan anew"),
    "not finite": of(scan(data=np.full((3, 3, 3), np.nan, np.float32)), "holds NaN or infinite voxels"),
    # --- phantom
    "foreign folder": of("phantom cohort", "cohort is not empty"),
    "cohort is a file": of(f"phantom {SCAN}", "is a file; give a folder"),
    "cohort's record": of(holding("new/cohort.json", "{", "phantom new"), "cannot be read", "remove the folder"),
    "another cohort": of(
        holding("new/cohort.json", '{"request": {"seed": 5}, "cases": []}', "phantom new"),
        "new holds another cohort",
        "seed 5 (now 0)",
    ),
    "unknown defect": of("phantom new --defects cracks", "unknown defect 'cracks'"),
    "several layouts": of("phantom new --layout real_mixed", "--layout real_mixed", "the sources phe_sich, ct_ich"),
    "unknown layout": of("phantom new --layout nope", "nope: no such config"),
    # --- check
    "check of nothing": of("check nope", "nope: no such data folder"),
    "settings alone": of("check cohort --set grid.size=64", "--set needs --config"),
    "page that cannot be written": of(f"check cohort -c demo --html {SCAN}/x.html", "cannot write there"),
    # --- init
    "init of nothing": of("init nope", "nope: no such data folder"),
    "init of an empty folder": of(emptied("empty", "init empty"), "empty: no .nii or .nii.gz file", "found nothing"),
    "init of scans alone": of("init cohort/images", "3 NIfTI files", "none that is the mask of another", "manifest"),
    "init of DICOM": of(holding("d/1.dcm", "x", "init d"), "1 DICOM files", "dcm2niix", "`ich predict` reads DICOM"),
    "init of other formats": of(holding("d/1.nrrd", "x", "init d"), "1.nrrd", "convert scans and masks"),
    "init over a file": of(
        holding("cohort.yaml", "mine", "init cohort"), "cohort.yaml: is there already", "--overwrite"
    ),
    "init over a manifest": of(copied(*SCANS_TWICE, (SCAN, "d.csv"), command="init d"), "d.csv: is there already"),
    "init prints no manifest": of(copied(*SCANS_TWICE, command="init d -o -"), "needs a manifest beside"),
    "init over a folder": of(emptied("conf", "init cohort -o conf"), "conf: is a folder, wanted a YAML file"),
    "init prints twice": of("init cohort -o - --json", "--output - and --json"),
    "init that cannot be written": of(f"init cohort -o {SCAN}/x.yaml", "cannot write there"),
    # --- what a run left
    "status of nothing": of("status -o cohort", "cohort: found no run there"),
    "rollback of nothing": of("rollback", "output: found none, wanted a model in service"),
    "rollback of one": of(in_service("rollback", 1), "is the oldest model there is, nothing to go back to"),
    "rollback to none": of(in_service("rollback --to 9", 1, 2), "--to 9: no such version; found 1, 2"),
    "rollback to itself": of(in_service("rollback --to 2", 1, 2), "is the model in service already"),
    "rollback that cannot be written": of(
        in_service("rollback", 1, 2, blocked=True), "cannot write there", "2 stays in service"
    ),
    "rollback of two models": of(two_models("rollback"), "output: holds the models ich, other", "--model-name"),
    "manifests of nothing": of("manifests -o k8s", "output: found none, wanted a model in service"),
    "manifests that cannot be written": of(in_service(f"manifests -o {SCAN}/x", 1), "cannot write there"),
    # --- schedule
    "no times": of("schedule -c demo -d cohort -o out --with cron", "no times; give --cron"),
    "times in words": of(
        "schedule -c demo -d cohort -o out --with cron --cron monday", "--cron 'monday': found 1 fields, wanted five"
    ),
    "times that are none": of(
        "schedule -c demo -d cohort -o out --with cron --cron 61␣3␣*␣*␣*", "found '61' for the minute"
    ),
    "job's name": of(
        "schedule -c demo -d cohort -o out --with cron --cron @daily --name a␣b", "--name 'a b': wanted letters"
    ),
    "units that cannot be written": of(
        holding(".config", "mine", "schedule -c demo -d cohort -o out --with systemd --cron @daily"),
        "cannot write there",
        "try --with cron",
    ),
    "no scheduler": of("schedule -c demo -d cohort -o out --with cron --cron @daily", "crontab: no such command here"),
    # --- serve
    "serve of nothing": of("serve --docker", "output: no model there"),
    "no Docker": of(in_service("serve --docker", 1), "found no command docker"),
}
"""By what the user did. Where a word of a command holds a space, ␣ stands for it."""
