"""The contract a model carries: what a client must do before and after it, as the `describe` signature returns it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from components.imaging.errors import UsageError
from components.imaging.postprocess import Postprocess

FORMAT = 3
"""Raised when a client of the older format would compute something else: one of format 2 sends scans in parts."""

READABLE = (2, FORMAT)
"""Formats that this program reads; 2 has no `input`, which was `slices` then."""

Input = Literal["slices", "scan"]


@dataclass(frozen=True, kw_only=True)
class Contract:
    """Everything that turns a scan into a request, and probabilities into a mask.

    Attributes:
        model_name: Name under which the model is served.
        grid_size: Pixels a side of the model grid.
        grid_spacing_mm: Its pixel size in mm.
        context_slices: Neighbouring slices a side that go with each slice.
        windows: HU windows, in the graph; for information.
        normalisation: `none` or `brain`; with `brain` a request carries the brain's HU mean and deviation.
        postprocess: How probabilities become a mask: what `Postprocess.to_dict` returns.
        data_fingerprint: Hash of the cases trained on.
        config_fingerprint: Hash of the configuration that shaped the model.
        patients: Patients per split.
        metrics: Figures of the validation split at export, by name.
        tuning: How the post-processing was chosen on the validation split, see `Tuning.to_dict`; empty where it was
            not tuned.
        hyperparameters: What a search chose in place of the configuration, by name; empty without search.
        versions: Versions of the packages that made the model.
        input: What a request holds: `slices`, any of them in any order, or `scan`, all slices of one scan in order.
        format: Version of this contract.
    """

    model_name: str
    grid_size: int
    grid_spacing_mm: float
    context_slices: int
    windows: list[dict[str, Any]]
    normalisation: str
    postprocess: dict[str, Any]
    data_fingerprint: str
    config_fingerprint: str
    patients: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, float | None] = field(default_factory=dict)
    tuning: dict[str, Any] = field(default_factory=dict)
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    input: Input = "slices"
    format: int = FORMAT

    def __post_init__(self) -> None:
        if self.input not in get_args(Input):
            raise ValueError(f"input: found {self.input!r}, wanted {' or '.join(get_args(Input))}")

    def to_json(self) -> str:
        """The contract as one JSON object."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> Contract:
        """Reads what `to_json` wrote.

        Raises:
            UsageError: Not such a contract, one of another format, or an incomplete one.
        """
        try:
            tree = json.loads(text)
            version = tree["format"]
        except (ValueError, KeyError, TypeError):
            raise UsageError("the model carries no contract; was it made by this program?") from None
        if version not in READABLE:
            raise UsageError(
                f"the model's contract has format {version}, this program reads {' and '.join(map(str, READABLE))}; "
                "train the model again, or use the version of the program that made it"
            )
        known = {item.name for item in fields(cls)}
        try:
            made = cls(**{key: value for key, value in tree.items() if key in known})
            Postprocess.from_dict(made.postprocess)
            return made
        except (TypeError, ValueError) as error:
            raise UsageError(f"the model's contract is incomplete ({error}); export the model again") from None
