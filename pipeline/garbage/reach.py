"""What is needed, and so must stay: sets in, sets out, no file and no store is looked at."""

from __future__ import annotations

import datetime
from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

TUNER_PREFIX = "tuner-"
"""How the folder of a search is called among those of trainings."""

STATISTICS_PER_SPAN = 2
"""Data is compared with the latest other data of its span: the second latest, where it is itself the latest."""


@dataclass(frozen=True)
class Artifact:
    """What a stage made.

    Attributes:
        id: In TFX's metadata store.
        place: Its folder below that of all artifacts, `<stage>/<output>/<execution>`; empty where it lies elsewhere.
        live: Whether the store says that it is there and whole.
        blesses: Of the gate's blessing: the model that it speaks for, if it blesses it.
    """

    id: int
    place: str
    live: bool = True
    blesses: int | None = None


@dataclass(frozen=True)
class Execution:
    """What a stage was given and what it made, or reused, by artifact id."""

    inputs: frozenset[int]
    outputs: frozenset[int]


@dataclass(frozen=True)
class Records:
    """What TFX's metadata store knows.

    Attributes:
        artifacts: By id.
        executions: By id.
    """

    artifacts: Mapping[int, Artifact] = field(default_factory=dict)
    executions: Mapping[int, Execution] = field(default_factory=dict)

    @cached_property
    def _makers(self) -> dict[int, list[Execution]]:
        """The executions that made or reused an artifact."""
        found: dict[int, list[Execution]] = {}
        for execution in self.executions.values():
            for made in execution.outputs:
                found.setdefault(made, []).append(execution)
        return found

    def lineage(self, artifacts: Iterable[int]) -> set[int]:
        """Artifacts and all that they were made from, with what came out of the same executions.

        TFX reuses an execution as a whole: without any one of its outputs it would be done again.
        """
        found: set[int] = set()
        waiting = list(artifacts)
        while waiting:
            one = waiting.pop()
            if one not in found:
                found.add(one)
                waiting.extend(other for maker in self._makers.get(one, ()) for other in maker.inputs | maker.outputs)
        return found

    def blessed(self) -> dict[int, set[int]]:
        """Of each model that is there and blessed by the gate: what the gate made with its blessing, that included."""
        found: dict[int, set[int]] = {}
        for one in self.artifacts.values():
            model = self.artifacts.get(one.blesses) if one.blesses is not None else None
            if one.live and model is not None and model.live:
                made = (maker.outputs for maker in self._makers.get(one.id, ()))
                found.setdefault(model.id, set()).update({one.id}, *made)
        return found


@dataclass(frozen=True)
class Run:
    """A run, as its summary tells of it.

    Attributes:
        name: When it began.
        artifacts: Ids of what its stages made or reused.
        places: The same as folders, where the summary names them: TFX's store may have been made anew since.
        pushed: The folder below `serving/` that it says is in service, if it pushed.
        trained: Whether no training or search was left undone.
    """

    name: str
    artifacts: frozenset[int] = frozenset()
    places: frozenset[str] = frozenset()
    pushed: str | None = None
    trained: bool = True

    @property
    def began(self) -> float:
        """Seconds since 1970; 0 where the name does not tell."""
        try:
            return datetime.datetime.strptime(f"{self.name[:15]}+0000", "%Y%m%dT%H%M%S%z").timestamp()
        except ValueError:
            return 0.0


@dataclass(frozen=True)
class Models:
    """Models and what is in service.

    Attributes:
        versions: Folders below `serving/` of the models that have a label, and of others from the same export.
        labelled: Ids of the model artifacts that they are copies of.
        served: Ids of the model artifacts of which any version is a copy, labelled or not.
    """

    versions: frozenset[str] = frozenset()
    labelled: frozenset[int] = frozenset()
    served: frozenset[int] = frozenset()


def kept_runs(runs: Sequence[Run], keep: int, last: str | None, versions: Collection[str]) -> dict[str, str]:
    """Which runs stay, and why.

    Args:
        runs: The oldest first.
        keep: How many of the newest stay, however they ended.
        last: The run whose outcome a run without anything new repeats.
        versions: The `Models.versions`; the run that pushed one stays.

    Returns:
        A reason by name, the newest run first.
    """
    reasons: dict[str, str] = {run.name: "" for run in runs[-keep:]}
    if any(run.name == last for run in runs):
        reasons.setdefault(str(last), "the last that came to an end")
    told: set[str] = set()
    for run in runs:  # later ones that reused everything name the same version
        if run.pushed in versions and run.pushed not in told:
            told.add(str(run.pushed))
            reasons.setdefault(run.name, f"pushed {run.pushed}, whose model is in service")
    return {
        name: reason or f"among the {keep} newest" for name, reason in sorted(reasons.items(), reverse=True)
    }  # fmt: skip


def needed_artifacts(records: Records, runs: Iterable[Run], models: Models) -> tuple[set[int], set[str]]:
    """What must stay below the folder of artifacts.

    A run needs all that its stages made or reused and all that this was made from, and so do the models with a label
    and the latest that the gate blessed and that is not in service: another run may still push it. An earlier one
    needs itself, its blessing and its evaluation; one that was pushed lives on in `serving/`.

    Args:
        records: What the store knows.
        runs: The runs that stay.
        models: What is in service.

    Returns:
        Ids of artifacts, and folders of which the store need not know anything.
    """
    by_place: dict[str, set[int]] = {}
    for one in records.artifacts.values():
        by_place.setdefault(one.place, set()).add(one.id)
    places: set[str] = set()
    roots: set[int] = set(models.labelled)
    for run in runs:
        places |= run.places
        roots |= run.artifacts.union(*(by_place.get(place, set()) for place in run.places))
    blessed = records.blessed()
    beside = set().union(*(blessed.get(model, set()) for model in models.labelled))
    waiting = sorted(set(blessed) - models.served)
    for model in waiting:
        beside |= {model} | blessed[model]
    roots |= set(waiting[-1:])
    ids = {one for one in records.lineage(roots) | beside if one in records.artifacts}
    return ids, places | {records.artifacts[one].place for one in ids if records.artifacts[one].live}


def needed_trainings(written: Mapping[str, float], runs: Sequence[Run], kept: Collection[str]) -> set[str]:
    """Folders of trainings and searches that a run may still take up.

    Such a folder belongs to the run under way when it was last written to. One that is taken up when it is at its end
    is written to no more; so of a run that did not finish what it was training the newest before stay, too.

    Args:
        written: When each was last written to, in seconds since 1970.
        runs: All runs, the oldest first.
        kept: Names of those that stay.
    """
    began = [run.began for run in runs]
    needed = set()
    for name, when in written.items():
        owner = bisect_right(began, when) - 1
        if owner >= 0 and runs[owner].name in kept:
            needed.add(name)
    for index, run in enumerate(runs):
        if run.name in kept and not run.trained:
            until = began[index + 1] if index + 1 < len(runs) else float("inf")
            for search in (True, False):
                before = [name for name in written if written[name] < until and search is _is_search(name)]
                needed |= set(sorted(before, key=lambda name: written[name])[-1:])
    return needed


def _is_search(name: str) -> bool:
    return name.startswith(TUNER_PREFIX)


@dataclass(frozen=True)
class Remembered:
    """Statistics of the data of an earlier run.

    Attributes:
        fingerprint: Of the data; the folder's name.
        span: The newest span in it.
        time: When it was last trained on.
    """

    fingerprint: str
    span: int
    time: str


def needed_statistics(entries: Iterable[Remembered], fingerprints: Collection[str]) -> set[str]:
    """Statistics that later data may be compared with.

    Args:
        entries: All that there are.
        fingerprints: Of the data that stays and of that of every version in service.
    """
    by_span: dict[int, list[Remembered]] = {}
    for entry in sorted(entries, key=lambda entry: entry.time):
        by_span.setdefault(entry.span, []).append(entry)
    latest = {entry.fingerprint for found in by_span.values() for entry in found[-STATISTICS_PER_SPAN:]}
    return latest | set(fingerprints)
