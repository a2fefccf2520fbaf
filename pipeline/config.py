"""The one typed configuration: a YAML file and command-line overrides, validated before anything starts."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import json
import re
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from components.evaluator.rules import SLICES
from components.imaging.checks.registry import CHECKS, Policy
from components.imaging.errors import UsageError
from components.nifti_example_gen.spans import EXPRESSIONS, placeholders
from components.tuner.halving import first_bracket

SHIPPED = Path(__file__).parent / "configs"


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads 1e-3 as text; this reads it as the number that it is."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _read_yaml(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)  # a subclass of the safe loader


MAX_TOKENS = 4096
"""Positions among which the bottleneck may attend: each head keeps the square of it, 64 MiB in float32."""

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Probability = Annotated[float, Field(gt=0.0, lt=1.0)]
NotNegative = Annotated[float, Field(ge=0.0)]


class Section(BaseModel):
    """Base of every section: unknown keys and silent conversions are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _no_other_placeholder(pattern: str, *allowed: str) -> None:
    """Raises a ValueError for a pattern with placeholders other than these and those of spans, or outside."""
    rest = pattern
    for name in (*allowed, *EXPRESSIONS):
        rest = rest.replace(name, "")
    if "{" in rest:
        raise ValueError(f"may contain no placeholder but {', '.join((*allowed, *EXPRESSIONS))}")
    if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
        raise ValueError("must be relative to the data folder and stay inside it")
    placeholders(pattern)


class LayoutConfig(Section):
    """Where scans and masks lie below the data folder.

    Either `image` and `mask` are patterns with a `{case}` placeholder (and optionally `{patient}`), or `manifest`
    names a CSV file with the columns `case_id, patient_id, image, mask, split`. Either may tell deliveries apart by
    `{SPAN}`, a number, or by the date `{YYYY}`, `{MM}`, `{DD}`.
    """

    image: str | None = Field(None, description="pattern of the scans, for example images/{case}.nii.gz")
    mask: str | None = Field(None, description="pattern of the masks, for example masks/{case}.nii.gz")
    manifest: str | None = Field(None, description="CSV file instead of the patterns")
    patient: str | None = Field(
        None, description="regular expression on the case id whose first group is the patient id"
    )
    lesion_labels: list[int] | None = Field(None, description="mask labels that are blood; default: all but 0")

    @field_validator("image", "mask")
    @classmethod
    def _one_case(cls, pattern: str | None) -> str | None:
        if pattern is None:
            return pattern
        if pattern.count("{case}") != 1 or pattern.count("{patient}") > 1:
            raise ValueError("must contain {case} once, and {patient} at most once")
        _no_other_placeholder(pattern, "{case}", "{patient}")
        return pattern

    @field_validator("manifest")
    @classmethod
    def _spans_only(cls, pattern: str | None) -> str | None:
        if pattern is not None and "{" in pattern:
            _no_other_placeholder(pattern)
        return pattern

    @field_validator("patient")
    @classmethod
    def _one_group(cls, expression: str | None) -> str | None:
        if expression is not None:
            try:
                groups = re.compile(expression).groups
            except re.error as error:
                raise ValueError(f"must be a regular expression ({error})") from None
            if groups < 1:
                raise ValueError("must have a group that holds the patient id, for example ^([0-9]+)_")
        return expression

    def span_placeholders(self) -> tuple[str, ...]:
        """How it tells spans apart, if it does.

        Raises:
            ValueError: The layout is incomplete, doubled, or its scans and masks tell spans otherwise.
        """
        if self.manifest and (self.image or self.mask):
            raise ValueError("give either manifest or image and mask, not both")
        if not self.manifest and not (self.image and self.mask):
            raise ValueError("needs image and mask patterns, or a manifest")
        found = placeholders(self.manifest or self.image or "")
        if self.mask and placeholders(self.mask) != found:
            raise ValueError(f"image and mask must tell spans alike, found {self.image} and {self.mask}")
        return found


class SourceConfig(LayoutConfig):
    """The layout of one source among several; `lesion_labels` goes before that of the section `data`."""

    @model_validator(mode="after")
    def _complete(self) -> SourceConfig:
        self.span_placeholders()
        return self


class DataConfig(LayoutConfig):
    """Which scans there are, and which of them can be used.

    Either one layout stands in the section itself, or `sources` holds several, each with a name that is put before
    its case ids and patient ids.
    """

    root: str | None = Field(None, description="data folder; `--data` overrides it")
    sources: dict[str, SourceConfig] = Field(
        default_factory=dict, description="layouts by the name of their source, instead of the one layout"
    )
    spans: Positive = Field(1, description="how many of the newest spans are read: a rolling window")
    max_voxels: Positive = Field(512 * 1024 * 1024, description="a larger scan is quarantined unread")
    min_slices: Positive = Field(1, description="a scan with fewer slices is quarantined")
    max_memory_gib: float = Field(2.0, gt=0, description="a scan that takes more to read is quarantined unread")
    max_quarantined: Fraction = Field(0.25, description="a larger share of quarantined scans stops the run")
    expect_lesions: bool = Field(False, description="quarantine a scan whose mask is empty")
    resample_masks: bool = Field(False, description="resample a mask whose grid differs from the scan's by rounding")
    checks: dict[str, Policy] = Field(
        default_factory=dict, description="severity by check code instead of the registry's: error, warning or off"
    )

    @field_validator("checks", mode="before")
    @classmethod
    def _off_is_no_boolean(cls, checks: Any) -> Any:
        """YAML reads a bare `off` as false."""
        if isinstance(checks, dict):
            return {code: "off" if policy is False else policy for code, policy in checks.items()}
        return checks

    @field_validator("checks")
    @classmethod
    def _known_checks(cls, checks: dict[str, Policy]) -> dict[str, Policy]:
        for code, policy in checks.items():
            if code not in CHECKS:
                close = difflib.get_close_matches(code, CHECKS, n=1)
                hint = f"did you mean {close[0]}? " if close else ""
                raise ValueError(f"{code} is no check; {hint}allowed: {', '.join(CHECKS)}")
            if CHECKS[code].fatal and policy != "error":
                raise ValueError(f"{code} cannot be {policy}: a scan cannot be used after it")
        return checks

    @field_validator("sources")
    @classmethod
    def _distinct_names(cls, sources: dict[str, SourceConfig]) -> dict[str, SourceConfig]:
        for name in sources:
            if not re.fullmatch("[a-z0-9][a-z0-9_]{0,30}", name):
                raise ValueError(f"found {name!r}, wanted a name of up to 31 small letters, digits and underscores")
            clash = next((other for other in sources if other.startswith(f"{name}_")), None)
            if clash is not None:
                raise ValueError(f"{name} and {clash} might make one case id of two; rename one of them")
        return sources

    @model_validator(mode="after")
    def _layout(self) -> DataConfig:
        if not self.sources:
            found = self.span_placeholders()
        else:
            own = [key for key in ("image", "mask", "manifest", "patient") if getattr(self, key) is not None]
            if own:
                raise ValueError(f"give either sources or one layout, found sources and {', '.join(own)}")
            told = {name: source.span_placeholders() for name, source in self.sources.items()}
            found = next(iter(told.values()))
            if set(told.values()) != {found}:
                ways = ", ".join(f"{name} {' '.join(way) or 'none'}" for name, way in told.items())
                raise ValueError(f"all sources must tell spans alike, found {ways}")
        if self.spans > 1 and not found:
            raise ValueError(
                f"spans: found {self.spans}, but the layout tells no spans apart; write {{SPAN}} or "
                "{YYYY}-{MM}-{DD} in it, for example span-{SPAN}/images/{case}.nii.gz"
            )
        return self


class GridConfig(Section):
    """The grid the network sees: square, in-plane, centred on the head; slices stay as they are."""

    size: Positive = Field(256, description="pixels a side")
    spacing_mm: float = Field(0.9, gt=0.05, le=10, description="pixel size in mm")
    context_slices: int = Field(0, ge=0, le=5, description="neighbouring slices on each side, as channels (2.5D)")


class Window(Section):
    """An HU window: values from level - width/2 to level + width/2 become 0 to 1."""

    name: str = Field(min_length=1, description="for people")
    level: float = Field(ge=-1024, le=3071, description="HU in the middle")
    width: float = Field(gt=0, le=8192, description="HU from its darkest to its brightest")


class SplitsConfig(Section):
    """Shares of patients in hash buckets of 100; a manifest's `split` column overrides them case by case."""

    train: int = Field(70, ge=1, le=98, description="what the network learns from")
    val: int = Field(15, ge=1, le=98, description="what stops training and chooses the post-processing")
    test: int = Field(15, ge=1, le=98, description="what the gate measures on, and nothing else looks at")
    salt: str = Field("", description="another salt deals the patients out anew")

    @model_validator(mode="after")
    def _hundred(self) -> SplitsConfig:
        total = self.train + self.val + self.test
        if total != 100:
            raise ValueError(f"train + val + test must be 100, found {total}")
        return self


class NetworkConfig(Section):
    """The U-Net.

    A 3D network looks across slices only where these are not thick against its pixels, which double at each halving
    of the grid: `thick_levels` is the number of halvings at which the distance of slices is still more than twice the
    pixel. With slices of 5 mm on a grid of 0.9 mm these are 0.9 and 1.8 mm, so 2; with slices of 1 mm it is 0.
    """

    kind: Literal["2d", "3d"] = Field(
        "2d", description="3d: looks at patches of neighbouring slices, see docs/MODEL.md"
    )
    thick_levels: int = Field(2, ge=0, le=8, description="of a 3d network: levels that look at each slice alone")
    block: Literal["plain", "residual"] = Field("plain", description="two convolutions, or with a way around them")
    base_filters: int = Field(24, ge=2, le=256, description="filters of the first level, doubled at each level")
    max_filters: int = Field(320, ge=2, le=2048, description="no level has more")
    depth: int = Field(4, ge=1, le=7, description="number of times the grid is halved")
    norm: Literal["batch", "instance", "group"] = Field("batch", description="normalisation after convolutions")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of the features that a training step leaves out")
    stem_stride: Literal[1, 2] = Field(
        2, description="2: the first level works at half the resolution (four times faster), 1: a classical U-Net"
    )
    decoder_convolutions: int = Field(1, ge=1, le=4, description="convolutions of each block on the way up")
    deep_supervision: bool = Field(False, description="train the coarser levels of the way up against the mask too")
    bottleneck: Literal["plain", "large_kernel", "attention"] = Field(
        "plain", description="long-range context at the lowest resolution: none, depthwise 7 x 7, or self-attention"
    )

    @property
    def levels(self) -> int:
        """Levels of the way up; what is below them is the bottleneck."""
        return self.depth - (self.stem_stride == 2)

    @property
    def slice_factor(self) -> int:
        """How often slices are halved in 3D, as a power of 2: the slices of a patch must be a multiple of it."""
        return 2 ** max(self.depth - max(self.thick_levels, int(self.stem_stride == 2)), 0)

    @model_validator(mode="after")
    def _something_to_supervise(self) -> NetworkConfig:
        if self.deep_supervision and self.levels < 2:
            raise ValueError(
                f"deep_supervision: found {self.levels} levels on the way up, wanted 2 or more; raise depth or set "
                "deep_supervision to false"
            )
        return self


class AugmentConfig(Section):
    """Random changes to training slices; 0 switches one off."""

    flip: bool = Field(True, description="exchange left and right in half of the slices")
    affine_share: Fraction = Field(0.5, description="share of slices that are rotated, scaled and shifted")
    elastic_share: Fraction = Field(0.0, description="share of slices that are bent")
    elastic: float = Field(0.02, ge=0, le=0.1, description="standard deviation of the bend, as a share of the grid")
    rotate_degrees: float = Field(15.0, ge=0, le=180, description="rotation to either side")
    scale: float = Field(0.15, ge=0, lt=1, description="zoom between 1 - scale and 1 + scale")
    shift: float = Field(0.05, ge=0, lt=1, description="translation as a share of the grid")
    carve_share: Fraction = Field(0.0, description="share of slices that get the lesion of another slice of the batch")
    soften_share: Fraction = Field(0.0, description="share of slices that are blurred or lose resolution")
    gamma: float = Field(0.0, ge=0, le=2, description="contrast: powers between 1 / (1 + gamma) and 1 + gamma")
    intensity: float = Field(0.1, ge=0, lt=1, description="range of gain and offset, for the narrowest window")
    noise: float = Field(0.02, ge=0, lt=1, description="standard deviation of noise in the narrowest window")


class TrainingConfig(Section):
    """How the network is fitted."""

    folds: int = Field(
        1, ge=1, le=10, description="2 or more: networks, each validated on its fold of train and val; exported: mean"
    )
    epochs: Positive = Field(30, description="at most")
    steps_per_epoch: Positive | None = Field(None, description="default: one pass over the balanced slices")
    batch_size: Positive = Field(8, description="slices of a step; in 3D patches")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="sgd: with Nesterov momentum")
    learning_rate: float = Field(1e-3, gt=0, le=1, description="after warm-up; falls to 0 from there")
    weight_decay: float = Field(1e-4, ge=0, le=1, description="of the kernels, apart from the loss")
    schedule: Literal["cosine", "polynomial"] = Field("cosine", description="how the rate falls after warm-up")
    ema: float = Field(
        0.0, ge=0, lt=1, description="validate and export a moving average of the weights; share of the old a step"
    )
    warmup: Fraction = Field(0.05, description="share of the steps in which the rate rises")
    dice_weight: float = Field(1.0, ge=0, description="of the Dice loss over the batch")
    cross_entropy_weight: float = Field(1.0, ge=0, description="of the cross-entropy of pixels")
    miss_weight: Fraction = Field(0.5, description="of misses against false positives (Tversky); 0.5: Dice")
    focal_gamma: float = Field(0.0, ge=0, le=5, description="focal cross-entropy; 0: plain")
    boundary_weight: float = Field(0.0, ge=0, description="extra weight of pixels on a lesion's edge")
    small_lesion_weight: float = Field(0.0, ge=0, description="extra weight of lesion in slices with little of it")
    lesion_fraction: Fraction = Field(
        0.5,
        description="least share of slices with lesion in what is drawn, of a 3d network share of patches centred on "
        "lesion; 0: draw all slices",
    )
    patient_balance: Fraction = Field(
        0.0,
        description="0: each slice with lesion (of a 3d network: patch of a scan with lesion) is drawn equally often; "
        "1: as many of one patient as of another",
    )
    source_shares: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict,
        description="by source, its share of the slices with lesion (of a 3d network: patches of scans with lesion) "
        "that are drawn; default: as many as it has",
    )
    patch_slices: Positive = Field(16, description="slices of a patch that a 3d network looks at")
    patch_size: Positive | None = Field(None, description="pixels a side of such a patch; default: the whole grid")
    min_lesion_cm2: float = Field(0.0, ge=0, description="slices with less lesion than this, but some, are left out")
    patience: Positive = Field(8, description="validations without a better val Dice before training stops")
    validate_every: Positive = Field(1, description="epochs between validations")
    max_minutes: float | None = Field(
        None, gt=0, description="stop, validate and keep the best after so long; all folds together"
    )
    checkpoint_minutes: float = Field(
        5.0, gt=0, description="minutes between checkpoints within an epoch, fewer early on; one is at its end anyway"
    )
    precision: Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"] = Field(
        "float32", description="auto: bfloat16 where the machine has it and the network can, else float32"
    )
    seed: int = Field(0, ge=0, description="of weights, batches and augmentation")
    deterministic: bool = Field(True, description="bit-equal repeats on a GPU too, at some cost in speed there")
    augment: AugmentConfig = AugmentConfig()

    @model_validator(mode="after")
    def _some_loss(self) -> TrainingConfig:
        if self.dice_weight == 0 and self.cross_entropy_weight == 0:
            raise ValueError("dice_weight and cross_entropy_weight must not both be 0")
        return self


def _rising(found: list[float]) -> list[float]:
    """Raises a ValueError for a range with nothing to search."""
    if found[0] >= found[1]:
        raise ValueError("wanted the lower end first, then the higher one, for example [0.3, 3.0]; null: not searched")
    return found


def _several(found: list[int]) -> list[int]:
    """Raises a ValueError for choices that leave no choice."""
    if len(set(found)) < len(found) or len(found) < 2:
        raise ValueError("wanted two different numbers or more, for example [16, 24]; null: not searched")
    return found


Rate = Annotated[float, Field(gt=0, le=1)]
RateRange = Annotated[list[Rate], Field(min_length=2, max_length=2), AfterValidator(_rising)]
WeightRange = Annotated[list[NotNegative], Field(min_length=2, max_length=2), AfterValidator(_rising)]
ShareRange = Annotated[list[Fraction], Field(min_length=2, max_length=2), AfterValidator(_rising)]
Width = Annotated[int, Field(ge=2, le=256)]


class SpaceConfig(Section):
    """What a search may choose: from the lower to the higher end, or one of some; null is not searched.

    Ranges are searched in their logarithm, that of `miss_weight` and those that begin at 0 as they are.
    """

    learning_rate: RateRange | None = Field([3e-4, 3e-3], description="for training.learning_rate")
    dice_weight: WeightRange | None = Field(
        None, description="for training.dice_weight; with AdamW little but its ratio to cross_entropy_weight counts"
    )
    cross_entropy_weight: WeightRange | None = Field([0.3, 3.0], description="for training.cross_entropy_weight")
    miss_weight: ShareRange | None = Field([0.3, 0.7], description="for training.miss_weight")
    base_filters: Annotated[list[Width], AfterValidator(_several)] | None = Field(
        [16, 24, 32], description="choices for network.base_filters"
    )


class TunerConfig(Section):
    """A search for the recipe by the Dice of the validation patients, before the training proper."""

    enabled: bool = Field(False, description="search, and train with what was chosen")
    algorithm: Literal["random", "bayesian", "hyperband"] = Field(
        "random", description="hyperband: many short trials, of which a third each goes on to thrice the epochs"
    )
    trials: Positive = Field(12, description="at most so many")
    epochs: Positive = Field(10, description="of a trial; hyperband: of those in the last round")
    seed: int = Field(0, ge=0, le=2**31, description="of what is proposed; trials train with training.seed")
    max_minutes: float | None = Field(None, gt=0, description="of all trials together; the best so far is taken then")
    space: SpaceConfig = SpaceConfig()

    @model_validator(mode="after")
    def _something(self) -> TunerConfig:
        if self.enabled and not any(self.space.model_dump().values()):
            raise ValueError(
                "space: found nothing to search; give a range or choices for one of "
                f"{', '.join(type(self.space).model_fields)}, or switch it off with tuner.enabled=false"
            )
        least = sum(first_bracket(self.epochs))
        if self.enabled and self.algorithm == "hyperband" and self.trials < least:
            raise ValueError(
                f"trials: found {self.trials}, wanted {least} or more, which the first bracket of hyperband takes with "
                f"{self.epochs} epochs; raise it, lower epochs, or choose another algorithm"
            )
        return self


class InferenceConfig(Section):
    """How the exported network is applied."""

    mirror: bool = Field(False, description="average with the mirrored slices; twice the time")
    overlap: float = Field(
        0.5, ge=0, le=0.9, description="of a 3d network: share of a patch that its neighbour covers too, on each axis"
    )


def _ordered(found: list[float]) -> list[float]:
    """Raises a ValueError for a range that holds nothing."""
    if found[0] >= found[1]:
        raise ValueError("wanted the lower HU first, then the higher one, for example [20, 110]")
    return found


HuRange = Annotated[list[float], Field(min_length=2, max_length=2), AfterValidator(_ordered)]


class PostprocessConfig(Section):
    """From probabilities to a mask; frozen into the model's contract.

    The first six say how. With `tune` they are used while training, and the search on the validation split that
    follows starts from them and leaves them as they are where nothing tried is clearly better.
    """

    threshold: Probability = Field(0.5, description="probability from which a voxel is lesion")
    core_threshold: Probability | None = Field(
        None, description="components without a voxel of this probability are dropped; default: threshold, all stay"
    )
    min_component_ml: float = Field(0.0, ge=0, description="smaller connected components are dropped")
    fill_holes: bool = Field(False, description="what lesion encloses within a slice becomes lesion")
    hu_range: HuRange | None = Field(None, description="components whose mean HU lies outside are dropped")
    head_only: bool = Field(False, description="components mostly outside the skull are dropped")
    tune: bool = Field(True, description="choose all six on the validation split after training")
    thresholds: list[Probability] = Field([0.3, 0.4, 0.5, 0.6, 0.7], max_length=20, description="tried")
    core_thresholds: list[Probability] = Field(
        [0.7, 0.9], max_length=20, description="tried besides the threshold itself; those below it are passed over"
    )
    component_sizes_ml: list[NotNegative] = Field([0.0, 0.1, 0.3, 0.5, 1.0], max_length=20, description="tried")
    hu_ranges: list[HuRange] = Field([[20.0, 110.0]], max_length=20, description="tried besides none at all")
    false_positive_weight: float = Field(
        0.01, ge=0, description="mean Dice that tuning gives for one false-positive component less a scan"
    )

    @model_validator(mode="after")
    def _core_above(self) -> PostprocessConfig:
        if self.core_threshold is not None and self.core_threshold < self.threshold:
            raise ValueError(
                f"core_threshold: found {self.core_threshold}, wanted the threshold {self.threshold} or more; "
                "leave it out to switch it off"
            )
        return self


class GateConfig(Section):
    """What a model must reach on the test split to be pushed."""

    min_mean_dice: Fraction = Field(0.5, description="lower bound on the mean patient Dice")
    min_dice_interval: Fraction | None = Field(
        None, description="lower bound on the lower end of the 95 % interval of the mean patient Dice; default: none"
    )
    max_false_positives: NotNegative | None = Field(
        None, description="upper bound on the mean false-positive components a scan; default: none"
    )
    slices: dict[str, Fraction] = Field(
        default_factory=dict, description=f"lower bounds on the mean patient Dice of some scans: {', '.join(SLICES)}"
    )
    max_dice_drop: Fraction = Field(
        0.02, description="how far below the model in service it may lie; a quarter of it where that is no chance"
    )
    min_test_patients: Positive = Field(1, description="fewer test patients: no blessing")

    @field_validator("slices")
    @classmethod
    def _known_slices(cls, slices: dict[str, float]) -> dict[str, float]:
        for name in slices:
            if name not in SLICES:
                close = difflib.get_close_matches(name, SLICES, n=1)
                hint = f"did you mean {close[0]}? " if close else ""
                raise ValueError(f"{name} is no slice; {hint}allowed: {', '.join(SLICES)}")
        return slices


Severity = Literal["stop", "hold", "note"]


class ValidationConfig(Section):
    """What follows from a finding against the data.

    `stop` ends the run before training, `hold` trains and measures but does not push, `note` only says so.
    """

    anomalies: Severity = Field("stop", description="data that breaks schema/schema.pbtxt")
    drift: Severity = Field("hold", description="far from the data before, or from that of the model in service")
    skew: Severity = Field("note", description="val or test far from train")
    quarantined: Severity = Field("hold", description="more scans quarantined than max_quarantined")
    max_quarantined: Fraction = Field(0.1, description="share of quarantined scans that is still good")


class ServabilityConfig(Section):
    """What a blessed model must keep to before it goes into service, measured on this machine in a fresh process."""

    max_load_seconds: Annotated[float, Field(gt=0)] | None = Field(60.0, description="to load it; null: no bound")
    max_seconds_per_scan: Annotated[float, Field(gt=0)] | None = Field(
        30.0, description="for a scan of 28 slices, after warm-up; null: no bound"
    )
    max_memory_mib: Annotated[float, Field(gt=0)] | None = Field(
        3072.0, description="of the process at its peak, TensorFlow and all; null: no bound"
    )
    timeout_s: float = Field(600.0, gt=0, description="the process is stopped, and the model refused, after so long")


IN_PROCESS, MULTI_PROCESSING = "in_process", "multi_processing"
WORKERS_OPTION = {
    MULTI_PROCESSING: "direct_num_workers",
    "DataflowRunner": "max_num_workers",
    "FlinkRunner": "parallelism",
}
"""Of each runner that has one: its option for the number of workers."""
RUNNERS = (IN_PROCESS, *WORKERS_OPTION, "SparkRunner", "PortableRunner")
PACKAGE_OPTIONS = ("setup_file", "extra_package", "extra_packages", "sdk_container_image")
"""Beam's options that bring this package to the workers."""


class BeamConfig(Section):
    """Where the stages run that go over all scans: ingestion, statistics and the gate."""

    runner: str = Field(
        IN_PROCESS, description=f"{', '.join(RUNNERS)}, or the import path of another class of Beam runners"
    )
    stages: list[Literal["NiftiExampleGen", "StatisticsGen", "Evaluator"]] = Field(
        ["NiftiExampleGen", "StatisticsGen", "Evaluator"],
        min_length=1,
        description="stages that this holds for; the others run in this process",
    )
    workers: Positive | None = Field(None, description=f"workers at most, for {', '.join(WORKERS_OPTION)}")
    args: list[str] = Field(default_factory=list, description="further Beam arguments: --flink_master=HOST:PORT")

    @field_validator("runner")
    @classmethod
    def _known_runner(cls, runner: str) -> str:
        package = runner.partition(".")[0]
        if runner in RUNNERS:
            return runner
        if re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", runner):
            if importlib.util.find_spec(package) is None:
                raise ValueError(f"no package {package} is installed here")
            return runner
        folded = {name.lower(): name for name in RUNNERS}
        close = difflib.get_close_matches(runner.lower(), folded, n=1, cutoff=0.5)
        hint = f"did you mean {folded[close[0]]}? " if close else ""
        raise ValueError(
            f"no such runner; {hint}allowed: {', '.join(RUNNERS)}, or an import path: package.module.Class"
        )

    @model_validator(mode="after")
    def _belongs_together(self) -> BeamConfig:
        if self.workers and self.runner not in WORKERS_OPTION:
            raise ValueError(
                f"workers: found {self.workers}, but {self.runner} takes no number of workers; leave it out, choose "
                f"another runner ({', '.join(WORKERS_OPTION)}), or say it in args as that runner wants it"
            )
        if self._given("runner"):
            raise ValueError("args: found --runner, which has a key of its own; set beam.runner instead")
        if self.args and not self.args[0].startswith("--"):
            raise ValueError(f"args: found {self.args[0]!r}, wanted an option such as --region=europe-west4")
        return self

    @property
    def remote(self) -> bool:
        """Whether workers may be other machines."""
        return self.runner not in (IN_PROCESS, MULTI_PROCESSING)

    def pipeline_args(self) -> list[str]:
        """Beam's arguments; workers elsewhere are sent this package, unless `args` say how they come by it.

        Raises:
            UsageError: There is no `setup.py` to make the package from.
        """
        if self.remote:
            # Imported before anything else, as `pipeline.processes` has it.
            args = [f"--runner={self.runner}", "--beam_plugin=tfx"]
            if not any(self._given(option) for option in PACKAGE_OPTIONS):
                args.append(f"--setup_file={_setup_file(self.runner)}")
        else:
            # By name, since Beam's default runner first looks for a download. In processes only if asked for: they cost
            # more than they bring (docs/SCALING.md), since ingestion has threads of its own, TensorFlow too.
            name, mode = {
                IN_PROCESS: ("apache_beam.runners.portability.fn_api_runner.FnApiRunner", "in_memory"),
                MULTI_PROCESSING: ("pipeline.processes.MultiProcessingRunner", MULTI_PROCESSING),
            }[self.runner]
            args = [
                f"--runner={name}",
                f"--direct_running_mode={mode}",
                # Names no image that is used: it only keeps TFX from packing its own sources anew for every stage.
                "--sdk_container_image=in-process",
            ]
        workers = self.workers
        if workers is None and not self.remote:
            workers = 1 if self.runner == IN_PROCESS else 0  # which Beam takes for as many as there are cores
        if workers is not None:
            args.append(f"--{WORKERS_OPTION.get(self.runner, 'direct_num_workers')}={workers}")
        return [*args, *self.args]

    def _given(self, option: str) -> bool:
        return any(item.partition("=")[0] == f"--{option}" for item in self.args)


def _setup_file(runner: str) -> Path:
    """What Beam makes the package from that its workers install."""
    path = Path(__file__).parents[1] / "setup.py"
    if not path.is_file():
        raise UsageError(
            f"beam.runner: {runner} needs this package on its workers, and {path} is not there to make it from; give "
            "--sdk_container_image=IMAGE, with an image that holds it, or --setup_file=CHECKOUT/setup.py in beam.args"
        )
    return path


class StageConfig(Section):
    """What a stage gets on the cluster."""

    cpu: float | None = Field(None, gt=0, description="processors, as limit")
    memory_gib: float | None = Field(None, gt=0, description="memory, as limit")
    gpus: int = Field(0, ge=0, description="accelerators")
    gpu_type: str = Field("nvidia.com/gpu", min_length=1, description="name of the resource")
    node_selector: dict[str, str] = Field(default_factory=dict, description="labels that the node must have")
    tolerate: list[str] = Field(default_factory=list, description="keys of taints that do not keep it off a node")


DEFAULT_STAGE = "default"
_ABSOLUTE = Annotated[str, Field(pattern="^/")]


class KubeflowConfig(Section):
    """Where Kubeflow Pipelines answers and how runs are started there. No secret stands here: see `token_file`."""

    host: str | None = Field(
        None, description="URL of the API, e.g. http://127.0.0.1:8888 of a port-forward; default: KF_PIPELINES_ENDPOINT"
    )
    namespace: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")] | None = Field(
        None, description="of the runs, where users have namespaces of their own; null: there is only one"
    )
    experiment: Annotated[str, Field(min_length=1, max_length=128)] | None = Field(
        None, description="runs are listed under it; default: the config's name"
    )
    pipeline_root: str | None = Field(
        None, description="URI of the artifacts, s3://, gs:// or minio://; null: the cluster's default"
    )
    service_account: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")] | None = Field(
        None, description="Kubernetes service account of the runs; null: the cluster's default"
    )
    token_file: str | None = Field(
        None,
        description="file with the bearer token; default: KF_PIPELINES_SA_TOKEN_PATH or KF_PIPELINES_TOKEN",
    )
    timeout_seconds: float = Field(60.0, gt=0, le=3600, description="an answer that takes longer is given up")
    verify_tls: bool = Field(True, description="whether the server's certificate is checked")
    ca_cert: str | None = Field(None, description="file of certificates to trust; default: SSL_CERT_FILE, or the usual")
    image: str | None = Field(None, min_length=1, description="image made from the Dockerfile, with its tag")
    pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = Field(None, description="default: the cluster's")
    resources: dict[str, StageConfig] = Field(
        default_factory=dict, description="by stage, such as Trainer; default: of those that are not named"
    )
    volumes: dict[str, _ABSOLUTE] = Field(
        default_factory=dict, description="claims of volumes and where every stage finds them"
    )
    env: dict[str, str] = Field(default_factory=dict, description="environment of every stage; no secrets")
    secrets: dict[str, dict[str, str]] = Field(
        default_factory=dict, description="Kubernetes secrets: of each, which key becomes which variable"
    )
    retries: int = Field(2, ge=0, le=20, description="further tries of a stage that failed; training goes on")

    @field_validator("host")
    @classmethod
    def _address(cls, host: str | None) -> str | None:
        return host if host is None else api_address(host)

    @field_validator("pipeline_root")
    @classmethod
    def _bucket(cls, root: str | None) -> str | None:
        if root is not None and not re.fullmatch(r"(s3|gs|minio)://[^/\s].*", root):
            raise ValueError("must be a URI that the cluster can write to: s3://, gs:// or minio:// and a bucket")
        return root


class HoldsSecretError(ValueError):
    """A value that must not be shown, not even in the message that refuses it."""


def api_address(url: str) -> str:
    """The address of an API without what may be left out.

    Raises:
        ValueError: It is none, or holds a secret.
    """
    if "@" in url:
        raise HoldsSecretError("must hold neither user nor password; put a token into kubeflow.token_file")
    try:
        parts = urlsplit(url.strip())
        known = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
        known = known and not parts.query and not parts.fragment
    except ValueError:  # brackets without their counterpart, a port that is no number
        known = False
    if not known:
        raise ValueError(
            "must be the API's URL, for example http://127.0.0.1:8888 or https://kubeflow.example/pipeline"
        )
    return url.strip().rstrip("/")


class OutputConfig(Section):
    """Where everything a run makes goes."""

    root: str | None = Field(None, description="output folder; `--output` overrides it")
    model_name: str = Field("ich", pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="under which it is served")


NO_RESULT = frozenset({"beam", "kubeflow"})
"""Sections that say where and how a run works: they change no result, and another value of theirs reruns nothing."""


class Config(Section):
    """The whole configuration of a run."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$", description="name of the pipeline")
    data: DataConfig
    grid: GridConfig = GridConfig()
    windows: list[Window] = Field(
        default_factory=lambda: [
            Window(name="brain", level=40.0, width=80.0),
            Window(name="subdural", level=50.0, width=130.0),
            Window(name="wide", level=300.0, width=2000.0),
        ],
        min_length=1,
        max_length=8,
        description="HU windows, each a channel of the network's input",
    )
    normalisation: Literal["none", "brain"] = Field(
        "none", description="brain: shift and scale each scan by its own brain HU before windowing"
    )
    splits: SplitsConfig = SplitsConfig()
    network: NetworkConfig = NetworkConfig()
    training: TrainingConfig = TrainingConfig()
    tuner: TunerConfig = TunerConfig()
    inference: InferenceConfig = InferenceConfig()
    postprocess: PostprocessConfig = PostprocessConfig()
    gate: GateConfig = GateConfig()
    validation: ValidationConfig = ValidationConfig()
    servability: ServabilityConfig = ServabilityConfig()
    beam: BeamConfig = BeamConfig()
    kubeflow: KubeflowConfig = KubeflowConfig()
    output: OutputConfig = OutputConfig()

    @model_validator(mode="after")
    def _combinations(self) -> Config:
        shares, sources = self.training.source_shares, self.data.sources
        if shares and set(shares) != set(sources):
            raise ValueError(
                f"training.source_shares: found {', '.join(shares)}, wanted a share for every key of data.sources: "
                f"{', '.join(sources) or 'there is none, so leave it out'}"
            )
        names = [window.name for window in self.windows]
        if len(set(names)) != len(names):
            raise ValueError(f"windows: names must differ, found {names}")
        factor = 2**self.network.depth
        if self.grid.size % factor:
            raise ValueError(
                f"grid.size: found {self.grid.size}, wanted a multiple of {factor} (2 to the network.depth)"
            )
        if self.grid.size // factor < 2:
            raise ValueError(f"network.depth: found {self.network.depth}, too deep for grid.size {self.grid.size}")
        tokens = (self.grid.size // factor) ** 2
        if self.network.kind == "3d":
            self._check_patches()
            slices, size = self.patch
            tokens = slices // self.network.slice_factor * (size // factor) ** 2
        if self.network.bottleneck == "attention" and tokens > MAX_TOKENS:
            raise ValueError(
                f"network.bottleneck: attention among {tokens} positions takes too much memory, wanted at most "
                f"{MAX_TOKENS}; raise network.depth (now {self.network.depth}) or take large_kernel"
            )
        space, training = self.tuner.space, self.training
        lowest = [
            (space.dice_weight or [training.dice_weight])[0],
            (space.cross_entropy_weight or [training.cross_entropy_weight])[0],
        ]
        if self.tuner.enabled and lowest == [0, 0]:
            raise ValueError(
                "tuner.space: dice_weight and cross_entropy_weight could both become 0, which leaves no loss; "
                "let one of the ranges begin above 0"
            )
        return self

    def _check_patches(self) -> None:
        """Raises a ValueError for what a 3D network cannot do."""
        network, training = self.network, self.training
        if self.grid.context_slices:
            raise ValueError(
                f"grid.context_slices: found {self.grid.context_slices}, but network.kind is 3d, which sees the "
                "neighbouring slices anyway; set it to 0"
            )
        if training.min_lesion_cm2:
            raise ValueError(
                f"training.min_lesion_cm2: found {training.min_lesion_cm2}, but network.kind is 3d, which cannot leave "
                "single slices out; set it to 0"
            )
        if training.patch_slices % network.slice_factor:
            raise ValueError(
                f"training.patch_slices: found {training.patch_slices}, wanted a multiple of {network.slice_factor} (2 "
                f"to the network.depth {network.depth} less the network.thick_levels {network.thick_levels})"
            )
        factor = 2**network.depth
        size = self.patch[1]
        if size % factor or size // factor < 2 or size > self.grid.size:
            raise ValueError(
                f"training.patch_size: found {size}, wanted a multiple of {factor} (2 to the network.depth) from "
                f"{2 * factor} to grid.size {self.grid.size}"
            )

    @property
    def patch(self) -> tuple[int, int]:
        """Slices and pixels a side of what a 3D network sees at once."""
        return self.training.patch_slices, self.training.patch_size or self.grid.size

    @property
    def channels(self) -> int:
        """Channels of the network's input: slices times windows."""
        return (2 * self.grid.context_slices + 1) * len(self.windows)

    def subset(self, *sections: str) -> str:
        """Canonical JSON of some sections: what a component needs, and no more, goes into its cache key.

        The folders `data.root` and `output.root` are left out: components are told the places that are in use.
        """
        whole = self.model_dump(mode="json")
        for section in (whole["data"], whole["output"]):
            del section["root"]
        return json.dumps({key: whole[key] for key in sections}, sort_keys=True)

    def fingerprint(self) -> str:
        """Short hash of everything that shapes a model."""
        sections = ("grid", "windows", "normalisation", "splits", "network", "training", "inference", "postprocess")
        text = self.subset(*sections, *(("tuner",) if self.tuner.enabled else ()))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def shipped_configs() -> list[str]:
    """Names of the configurations that come with the package."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def load_config(source: str | Path, overrides: Iterable[str] = (), **sections: dict[str, Any]) -> Config:
    """Reads, overrides and validates a configuration.

    Args:
        source: A YAML file, or the name of a shipped configuration.
        overrides: `key.path=value` settings; the value is read as YAML.
        **sections: Further values by section, as the command line's own options give them.

    Raises:
        UsageError: No such file, not YAML, an unknown key, a wrong type or an impossible combination; the message
            names the key's path, the value and what is allowed.
    """
    path = Path(source)
    if not path.is_file() and path.suffix == "":  # a folder of that name, such as `demo`, is no config
        path = SHIPPED / f"{source}.yaml"
    if not path.is_file():
        raise UsageError(f"{source}: no such configuration; give a YAML file or one of: {', '.join(shipped_configs())}")
    try:
        tree = _read_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise UsageError(f"{path}: found {type(tree).__name__}, wanted a mapping of sections such as data and grid")
    for setting in overrides:
        _override(tree, setting)
    for section, values in sections.items():
        chosen = {key: value for key, value in values.items() if value is not None}
        if chosen:
            node = tree.setdefault(section, {})
            if isinstance(node, dict):
                node.update(chosen)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise UsageError(f"{path}:\n" + "\n".join(_explain(error))) from None


def _override(tree: dict[str, Any], setting: str) -> None:
    key, equals, text = setting.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"--set {setting}: wanted key.path=value, for example training.epochs=20")
    try:
        value = _read_yaml(text)
    except yaml.YAMLError:
        raise UsageError(f"--set {setting}: the value {text!r} is not valid YAML; quote it") from None
    *parents, last = key.strip().split(".")
    node: Any = tree
    for part in parents:
        node = node.setdefault(part, {}) if isinstance(node, dict) else None
        if not isinstance(node, dict):
            raise UsageError(f"--set {setting}: {part} is no section; see `ich config --help`")
    node[last] = value


def _explain(error: ValidationError) -> Iterable[str]:
    for problem in error.errors():
        path = ".".join(str(part) for part in problem["loc"])
        value = problem.get("input")
        if problem["type"] == "extra_forbidden":
            known = _keys_at(problem["loc"][:-1])
            close = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            yield f"  {path}: unknown key; {hint}allowed: {', '.join(known)}"
        elif problem["type"] == "missing":
            yield f"  {path}: missing; it must be given"
        elif problem["type"] == "value_error":
            text = str(problem["ctx"]["error"])
            secret = isinstance(problem["ctx"]["error"], HoldsSecretError)
            shown = not isinstance(value, dict | BaseModel) and not secret
            found = f" found {value!r};" if shown else ""
            yield "  " + f"{path + ':' if path else ''}{found} {text}".strip()
        else:
            yield f"  {path}: found {value!r} ({type(value).__name__}); {problem['msg'][0].lower()}{problem['msg'][1:]}"


def _keys_at(location: tuple[int | str, ...]) -> list[str]:
    """The keys that the section at `location` knows."""
    model: Any = Config
    for part in location:
        if isinstance(part, int) or part not in model.model_fields:  # a place in a list, a name in a mapping
            continue
        annotation = model.model_fields[part].annotation
        arguments = [
            argument
            for argument in (annotation, *typing.get_args(annotation))
            if isinstance(argument, type) and not isinstance(argument, types.GenericAlias)
        ]
        model = next((item for item in arguments if issubclass(item, BaseModel)), model)
    return sorted(model.model_fields)
