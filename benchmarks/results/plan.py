"""What is trained for docs/RESULTS.md: one row each, in the order of the page."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

SOURCES = ("phe_sich", "ct_ich")
LAYOUTS = "real_mixed"
"""The configuration that says where each source's scans lie."""

FOLDS = 5
"""Each row is trained so many times, each time without another fifth of the patients, on which it is then measured."""

_SCRATCH: dict[str, Any] = {
    "windows": [{"name": "brain", "level": 40.0, "width": 80.0}],
    "grid": {"context_slices": 0},
    "network": {"deep_supervision": False},
    "training": {
        "min_lesion_cm2": 2.0, "lesion_fraction": 1.0, "source_shares": {}, "patient_balance": 0.0,
        "dice_weight": 0.0, "small_lesion_weight": 0.0, "ema": 0.0,
        "augment": {
            "flip": False, "affine_share": 0.0, "elastic_share": 0.0, "carve_share": 0.0, "soften_share": 0.0,
            "gamma": 0.0, "intensity": 0.0, "noise": 0.0,
        },
    },
    "inference": {"mirror": False},
    "postprocess": {"tune": False},
}  # fmt: skip
"""The shipped recipe's network with nothing else of it: where the ablation begins."""

_ADDED = {
    "network only": (),
    "+ all slices, half of them with lesion": ("training.min_lesion_cm2", "training.lesion_fraction"),
    "+ small sources and patients drawn more often": ("training.source_shares", "training.patient_balance"),
    "+ Dice in the loss, small lesions weighted": ("training.dice_weight", "training.small_lesion_weight"),
    "+ deep supervision": ("network",),
    "+ three windows": ("windows",),
    "+ neighbouring slices": ("grid.context_slices",),
    "+ augmentation": ("training.augment",),
    "+ averaged weights": ("training.ema",),
    "+ tuned post-processing": ("postprocess",),
    "+ mirroring": ("inference",),
}
"""What each row of the ablation gives back, on top of those before it."""

_INSTEAD: dict[str, tuple[str, dict[str, Any]]] = {
    "normalised": ("each scan by its brain's own HU", {"normalisation": "brain"}),
    "folds": ("four networks of a quarter of the time each, averaged", {"training": {"folds": 4}}),
    "large-kernel": ("large kernels at the lowest resolution", {"network": {"bottleneck": "large_kernel"}}),
    "3d": (
        "3D patches of 16 slices instead of neighbours as channels",
        {
            "grid": {"context_slices": 0}, "network": {"kind": "3d"},
            "training": {"patch_slices": 16, "patch_size": 160, "batch_size": 2},
        },
    ),
}  # fmt: skip
"""What is done otherwise in the last rows of the ablation, one thing each."""

ABLATION_MINUTES = 20.0


@dataclass(frozen=True)
class Row:
    """One recipe, trained once for each fold.

    Attributes:
        name: Unique, short, for the command line.
        group: Heading on the page.
        title: What it is, in words.
        recipe: The shipped configuration whose recipe is used.
        sources: The sources trained on.
        minutes: `training.max_minutes`; None leaves the recipe's own.
        changes: Sections that differ from the recipe.
        elsewhere: Whether all patients of the source that was not trained on are measured too, and the scans without
            a mask.
    """

    name: str
    group: str
    title: str
    recipe: str
    sources: tuple[str, ...] = SOURCES
    minutes: float | None = None
    changes: dict[str, Any] = field(default_factory=dict)
    elsewhere: bool = False


def rows() -> list[Row]:
    """All rows."""
    found = []
    for recipe, title in (("thesis_baseline", "where it started"), ("real_mixed", "shipped")):
        found.append(Row(f"{recipe}", "recipes", f"{title}, both sources", recipe, elsewhere=True))
        found += [
            Row(f"{recipe}-{source}", "recipes", f"{title}, {source} alone", recipe, (source,), elsewhere=True)
            for source in SOURCES
        ]
    given: list[str] = []
    for number, (title, keys) in enumerate(_ADDED.items()):
        given += keys
        found.append(
            Row(
                f"ablation-{number:02}", "ablation", title, "real_mixed", minutes=ABLATION_MINUTES,
                changes=without(_SCRATCH, given),
            )
        )  # fmt: skip
    found += [
        Row(name, "ablation", f"shipped, {title}", "real_mixed", minutes=ABLATION_MINUTES, changes=changes)
        for name, (title, changes) in _INSTEAD.items()
    ]
    return found


def without(tree: dict[str, Any], keys: list[str]) -> dict[str, Any]:
    """A copy of nested sections that lacks some dotted keys."""
    copy: dict[str, Any] = {}
    for name, value in tree.items():
        if name in keys:
            continue
        inner = [key.partition(".")[2] for key in keys if key.startswith(f"{name}.")]
        copy[name] = without(value, inner) if isinstance(value, dict) else value
    return copy
