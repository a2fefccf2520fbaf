"""What the tests of disturbed runs share: a server of processes, a tiny cohort, and a run that nothing disturbed."""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from serving.versions import versions
from tests.cases import Sample, cuboid
from tests.crash.server import ForkServer

SETTINGS = {
    "name": "tiny",
    "data": {"manifest": "manifest.csv"},
    "grid": {"size": 32, "spacing_mm": 6.0},
    "network": {"base_filters": 8, "depth": 2},
    "training": {
        "epochs": 2,
        "steps_per_epoch": 16,
        "batch_size": 4,
        "learning_rate": 2.0e-2,
        "checkpoint_minutes": 1e-4,
    },
    "gate": {"min_mean_dice": 0.3, "max_dice_drop": 0.9},
    "validation": {"drift": "note"},
}
SPLITS = {"train": 4, "val": 2, "test": 2}
BASELINE = "1700000000"
"""The version that is in service before the first run."""


@dataclass(frozen=True)
class Lab:
    """Everything that a run needs.

    Attributes:
        server: Starts processes.
        folder: A folder of one's own.
        config: The configuration's file.
        data: The data folder.
    """

    server: ForkServer
    folder: Path
    config: Path
    data: Path

    def arguments(self, output: Path, *more: str) -> list[str]:
        """Those of `ich run`."""
        return ["run", "-c", str(self.config), "-d", str(self.data), "-o", str(output), *more]

    def serve(self, output: Path) -> Path:
        """Puts a model in service; returns the folder of versions."""
        folder = output / "serving" / "ich"
        assert self.server.call("export", folder / BASELINE, {"data_fingerprint": "before"}) == 0
        return folder

    def run(
        self, output: Path, *more: str, clock: float = 0.0, patience: float | None = None, **at: Any
    ) -> tuple[int, str]:
        """Runs `ich run`; returns its exit code and what it printed.

        Args:
            output: The output folder.
            *more: Further arguments.
            clock: Seconds that the clock is wrong.
            patience: Seconds that it waits for a locked database.
            **at: What happens at which point, as `tests.crash.points.arm` has it.
        """
        out = self.folder / "printed.txt"
        out.unlink(missing_ok=True)
        given = {"output": str(output), **at} if at else None
        code = self.server.call("ich", self.arguments(output, *more), given, clock, patience, out=out)
        return code, out.read_text()

    @contextlib.contextmanager
    def watched(self, folder: Path) -> Iterator[None]:
        """Keeps loading what is in service, which must be whole at each moment.

        Args:
            folder: The folder of versions.
        """
        stop, report, out = (self.folder / f"{folder.parents[1].name}-watch.{end}" for end in ("stop", "json", "txt"))
        watcher = self.server.start("watch", folder, stop, report, out=out)
        try:
            yield
        finally:
            stop.touch()
            code = self.server.wait(watcher)
        assert code == 0, out.read_text()
        found = json.loads(report.read_text())
        assert found["looks"] > 20 and found["versions"][0] == BASELINE, found
        assert found["loads"] >= len(found["versions"]) and found["versions"][-1] == versions(folder)[-1].name, found

    def masks(self, output: Path) -> dict[str, bytes]:
        """What the model in service makes of the test scans: the mask files' bytes by scan."""
        folder = output.with_name(f"{output.name}-masks")
        scans = [self.data / f"test{number}.nii.gz" for number in range(SPLITS["test"])]
        assert self.server.call("ich", ["predict", *map(str, scans), "-o", str(folder), "-m", str(output)]) == 0
        return {path.name: path.read_bytes() for path in sorted(folder.glob("*_mask.nii.gz"))}


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Server, configuration and cohort."""
    server = ForkServer()
    folder = tmp_path_factory.mktemp("crash")
    (folder / "config.yaml").write_text(json.dumps(SETTINGS))  # JSON is YAML
    rows: list[list[str]] = []
    for split, count in SPLITS.items():
        for number in range(count):
            name = f"{split}{number}"
            place = 20 + 2 * len(rows)  # no two alike: the same scan in two splits is refused
            blood = [cuboid((1, 4), (place, place + 12), (24, 36))]
            Sample(name, blood, blood).save(folder / "data" / f"{name}.nii.gz", folder / "data" / f"{name}_m.nii.gz")
            rows.append([name, name, f"{name}.nii.gz", f"{name}_m.nii.gz", split])
    with (folder / "data" / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["case_id", "patient_id", "image", "mask", "split"], *rows])
    yield Lab(server, folder, folder / "config.yaml", folder / "data")
    server.close()


@dataclass(frozen=True)
class Undisturbed:
    """A run to compare others with.

    Attributes:
        output: Its output folder.
        passed: How often it passed each point, by `stage/point`.
        masks: What its model makes of the test scans.
    """

    output: Path
    passed: dict[str, int]
    masks: dict[str, bytes]


@pytest.fixture(scope="session")
def undisturbed(lab: Lab) -> Undisturbed:
    """Where a model was in service before."""
    output, trace = lab.folder / "undisturbed", lab.folder / "passed.json"
    lab.serve(output)
    code, printed = lab.run(output, trace=str(trace))
    assert code == 0, printed
    return Undisturbed(output, json.loads(trace.read_text()), lab.masks(output))
