"""Every error that a user can cause: what is said, the exit code, no traceback; and that none is forgotten.

The table is `tests.pipeline.mistakes`. What needs a training, a server or DICOM is tested where these are; `ELSEWHERE`
says in which file, and the words of the message, or its code, must stand there.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass

import pytest
from click.testing import CliRunner

from pipeline.cli import main
from tests.cases import Sample, cuboid
from tests.pipeline.mistakes import MISTAKES
from tests.raise_sites import ROOT, Site, recorded, sites, which

BLOOD = [cuboid((1, 3), (26, 38), (26, 38))]

ELSEWHERE = {
    # What only the checks of a cohort or of a scan say: a line of `ich check` and of cases.json, no end of a command.
    "components/imaging/checks/": ("tests/imaging/checks/", "tests/components/nifti_example_gen/"),
    "components/imaging/nifti.py": ("tests/imaging/test_nifti.py",),
    "components/imaging/scan.py": ("tests/imaging/test_scan.py",),
    # DICOM files are made there.
    "components/imaging/dicom/": ("tests/imaging/dicom/", "tests/pipeline/test_predict_dicom.py"),
    "serving/prediction/dicom_seg.py": ("tests/pipeline/test_predict_dicom.py",),
    "serving/prediction/inputs.py": ("tests/pipeline/test_predict_dicom.py", "tests/pipeline/test_predict.py"),
    # Arguments of functions; the command line has ranges of its own.
    "components/imaging/phantom/": ("tests/imaging/",),
    "components/imaging/postprocess.py": ("tests/imaging/test_postprocess.py",),
    "pipeline/evaluate.py": ("tests/pipeline/test_evaluate.py",),
    # Within a run: an examples' stage, a training, a search, the pages.
    "components/nifti_example_gen/": ("tests/components/nifti_example_gen/", "tests/test_odd_cohorts.py"),
    "components/data_validator/": ("tests/components/data_validator/",),
    "components/trainer/": ("tests/components/trainer/", "tests/components/tuner/"),
    "components/tuner/": ("tests/components/tuner/",),
    "pipeline/local_runner.py": ("tests/pipeline/test_local_runner.py",),
    "pipeline/kubeflow/": ("tests/pipeline/kubeflow/",),
    "components/run_report/": ("tests/components/run_report/",),
    # Buckets: a server with the API of S3 is there.
    "components/storage/": ("tests/components/storage/",),
    # Schedulers, servers and models in service.
    "pipeline/obstacles.py": ("tests/pipeline/test_obstacles.py", "tests/crash/"),
    "pipeline/garbage/": ("tests/pipeline/garbage/",),
    "pipeline/config.py": ("tests/pipeline/test_config.py",),
    "serving/viewer/": ("tests/pipeline/test_view.py",),
    "pipeline/schedule.py": ("tests/pipeline/test_schedule.py",),
    "serving/server/": ("tests/serving/server/",),
    "serving/client/": ("tests/serving/client/",),
    "serving/manifests/": ("tests/serving/manifests/",),
}
"""By the beginning of the source's path, the tests of what the table does not reach."""

BY_WORDS = {
    "pipeline/evaluate.py: evaluate": ("tests/pipeline/test_evaluate.py", "workers is 0"),
    "pipeline/kubeflow/compile.py: pipeline_documents": ("tests/pipeline/kubeflow/test_compile.py", '"Dockerfile"'),
    "pipeline/kubeflow/connection.py: _certificates": (
        "tests/pipeline/kubeflow/test_connection.py",
        "nowhere is no file",
    ),
    "pipeline/kubeflow/connection.py: _token": (
        "tests/pipeline/kubeflow/test_connection.py",
        "its value holds no token",
    ),
    "components/storage/connection.py: locate": ("tests/components/storage/test_filesystem.py", "names no bucket"),
    "components/storage/connection.py: _explanation": (
        "tests/components/storage/test_filesystem.py",
        "at http://127.0.0.1:9, wanted",
    ),
    "components/storage/filesystem.py: Bucket.glob": ("tests/components/storage/test_filesystem.py", "names no bucket"),
    "components/storage/filesystem.py: Bucket.rmtree": ("tests/components/storage/test_filesystem.py", "whole bucket"),
    "serving/viewer/scene.py: open_scene": ("tests/pipeline/test_view.py", "name one"),
    "pipeline/local_runner.py: _timed": ("tests/pipeline/test_local_runner.py", "stage Evaluator failed: ValueError"),
    "pipeline/rollback.py: roll_back": ("tests/pipeline/test_rollback.py", "found no version"),
    "components/imaging/phantom/cohort.py: _check": ("tests/imaging/test_phantom_cohort.py", '"seed -1"'),
    "components/imaging/phantom/patient.py: _check": ("tests/imaging/test_phantom.py", "match=word"),
}
"""Functions whose messages are tested by other words than three in a row."""

BY_CHANCE = {
    "pipeline/local_runner.py: _prepare.launch": "TFX found no inputs for a stage, which the order of stages rules out",
    "components/storage/connection.py: explained": "names that Arrow's client itself refuses, others in each version",
    "serving/client/remote.py: RemoteModel.__init__": "arguments that the command line does not take",
    "serving/server/models.py: Models.__init__": "a model that vanishes between two looks",
}
"""What no command line brings about for sure, and why."""

PASSED_ON = {
    "components/nifti_example_gen/examples.py: read_case",
    "components/trainer/validation.py: validate",
    "components/trainer/validation.py: count_cases",
    "serving/client/remote.py: RemoteModel._look",
    "pipeline/kubeflow/connection.py: _host",
    "components/storage/mirror.py: as_named",
    "serving/client/remote.py: RemoteModel._final",
    "serving/prediction/outline.py: predict_volume",
}
"""These say what another one said, with a place before it, or a text that stands elsewhere."""


@dataclass(frozen=True)
class Said:
    """What a command did."""

    code: int
    stdout: str
    stderr: str
    raised: BaseException | None
    sites: frozenset[tuple[str, int]]


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Said]:
    """Every mistake made once, each in a working folder of its own and without any program on the path."""
    base = tmp_path_factory.mktemp("mistakes")
    for case in ("001", "002", "003"):
        name = f"{case}.nii.gz"
        Sample(case, BLOOD, BLOOD).save(base / "cohort/images" / name, base / "cohort/masks" / name)
    done: dict[str, Said] = {}
    for number, (name, mistake) in enumerate(MISTAKES.items()):
        place = base / str(number)
        shutil.copytree(base / "cohort", place / "cohort")
        with pytest.MonkeyPatch.context() as patch, recorded() as seen:
            patch.chdir(place)
            patch.setenv("PATH", str(base / "nothing"))
            patch.setenv("HOME", str(place))
            patch.delenv("XDG_CONFIG_HOME", raising=False)
            arguments = mistake.make(place)
            result = CliRunner().invoke(main, [str(item) for item in arguments], prog_name="ich")
            raised = None if isinstance(result.exception, SystemExit) else result.exception
            done[name] = Said(result.exit_code, result.stdout, result.stderr, raised, frozenset(seen))
        shutil.rmtree(place)
    return done


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gets_one_clear_message(said: dict[str, Said], name: str) -> None:
    mistake, found = MISTAKES[name], said[name]
    assert found.raised is None, repr(found.raised)
    assert found.code == mistake.code, found.stderr
    assert found.stderr.startswith("error: ")
    assert "Traceback" not in found.stdout + found.stderr
    for words in mistake.words:
        assert words in found.stderr
    assert len(found.stderr.splitlines()) <= 3


def test_no_error_is_forgotten(said: dict[str, Said]) -> None:
    """Each place that makes an error was passed in the table, or its words stand in the tests that are named here."""
    everything = sites()
    assert len(everything) > 150
    passed = {which(place, everything) for found in said.values() for place in found.sites}
    listed = {*PASSED_ON, *BY_WORDS, *BY_CHANCE}
    forgotten = [
        f"{site.file}:{site.first} {site.function}: {' '.join(site.words)[:80]!r}"
        for site in everything
        if site not in passed and f"{site.file}: {site.function}" not in listed and not covered_elsewhere(site)
    ]
    assert not forgotten, "\n".join(forgotten)


def test_the_lists_name_nothing_that_is_gone() -> None:
    names = {f"{site.file}: {site.function}" for site in sites()}
    assert not {*PASSED_ON, *BY_WORDS, *BY_CHANCE} - names
    for file, words in BY_WORDS.values():
        assert words in (ROOT / file).read_text(encoding="utf-8")
    for source, tests in ELSEWHERE.items():
        assert any(name.startswith(source) for name in names), source
        assert all((ROOT / test).exists() for test in tests)


def covered_elsewhere(site: Site) -> bool:
    """Whether three words of its message in a row, or its code, stand in one of the files that test it."""
    tests = next((files for source, files in ELSEWHERE.items() if site.file.startswith(source)), ())
    paths = [
        path for name in tests for path in ([ROOT / name] if name.endswith(".py") else (ROOT / name).rglob("*.py"))
    ]
    text = " ".join(" ".join(path.read_text(encoding="utf-8").split()) for path in paths)
    text = re.sub(r'" f?"', "", text)  # a message that goes on in the next line
    return any(part in text for words in site.words for part in _telling(words))


def _telling(words: str) -> list[str]:
    """What of a text is enough to know it by: a code in quotes, or three words in a row (all, of a shorter one)."""
    if re.fullmatch("[a-z]+(-[a-z]+)+|unreadable|truncated|geometry|dimensions", words):
        return [f'"{words}"']
    parts = re.findall(r"[\w./`'-]+", words)
    if len(parts) < 3:
        return [words.strip(" :;,.()")] if len(words) >= 12 else []
    return [match[1] for match in re.finditer(r"(?=(\S+ \S+ \S+))", words)]
