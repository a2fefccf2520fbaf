"""The configuration: what is refused and how, what overrides do, and what the hashes depend on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.imaging.errors import UsageError
from components.trainer.network import build_network
from pipeline.config import SHIPPED, Config, load_config, shipped_configs

MINIMAL: dict[str, Any] = {"name": "tiny", "data": {"image": "i/{case}.nii.gz", "mask": "m/{case}.nii.gz"}}
MODEL_SECTIONS = ("grid", "windows", "normalisation", "splits", "network", "training", "inference", "postprocess")


@pytest.fixture
def minimal(tmp_path: Path) -> Path:
    """A configuration with nothing but what must be given."""
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(MINIMAL))
    return path


def refusal(source: Path | str, *settings: str) -> str:
    with pytest.raises(UsageError) as caught:
        load_config(source, settings)
    return str(caught.value)


# --- what is refused


@pytest.mark.parametrize(
    ("setting", "wanted"),
    [
        # unknown keys, with what was meant and what there is
        ("training.epoch=3", ["training.epoch:", "unknown key", "did you mean epochs?", "batch_size"]),
        ("zzz=3", ["zzz:", "unknown key", "allowed:", "training"]),
        ("training.augment.rotate=3", ["training.augment.rotate:", "did you mean", "rotate_degrees"]),
        ("windows=[{name: a, level: 1, width: 2, lvl: 3}]", ["windows.0.lvl:", "did you mean level?", "width"]),
        # wrong types: no silent conversion
        ("training.epochs=ten", ["training.epochs:", "'ten'", "str", "integer"]),
        ("training.epochs='10'", ["training.epochs:", "'10'", "str", "integer"]),
        ("training.epochs=10.5", ["training.epochs:", "10.5", "integer"]),
        ("training.epochs=true", ["training.epochs:", "True", "integer"]),
        ("training.deterministic=1", ["training.deterministic:", "1", "boolean"]),
        ("training.learning_rate=true", ["training.learning_rate:", "True", "number"]),
        ("training.epochs=", ["training.epochs:", "None", "integer"]),
        ("training=5", ["training:", "5 (int)", "dictionary"]),
        ("windows=brain", ["windows:", "'brain'", "list"]),
        ("data.lesion_labels=[1, two]", ["data.lesion_labels.1:", "'two'", "integer"]),
        # out of range
        ("training.epochs=0", ["training.epochs:", "0", "greater than or equal to 1"]),
        ("training.learning_rate=-1e-3", ["training.learning_rate:", "-0.001", "greater than 0"]),
        ("training.learning_rate=.nan", ["training.learning_rate:", "nan", "finite"]),
        ("training.dice_weight=.inf", ["training.dice_weight:", "inf", "finite"]),
        ("gate.min_mean_dice=1.5", ["gate.min_mean_dice:", "1.5", "less than or equal to 1"]),
        ("gate.min_dice_interval=-0.1", ["gate.min_dice_interval:", "-0.1", "greater than or equal to 0"]),
        ("gate.max_false_positives=-1", ["gate.max_false_positives:", "-1", "greater than or equal to 0"]),
        ("gate.slices.smal=0.3", ["gate.slices:", "smal is no slice", "did you mean small?",
                                  "small, medium, large, no_bleed, thick, thin"]),
        ("gate.slices.small=1.3", ["gate.slices.small:", "1.3", "less than or equal to 1"]),
        ("postprocess.threshold=1", ["postprocess.threshold:", "less than 1"]),
        ("postprocess.core_threshold=0.4", ["postprocess: core_threshold: found 0.4", "threshold 0.5 or more"]),
        ("postprocess.thresholds=[0.5, 0]", ["postprocess.thresholds.1:", "0", "greater than 0"]),
        ("postprocess.component_sizes_ml=[-1]", ["postprocess.component_sizes_ml.0:", "-1", "or equal to 0"]),
        ("postprocess.hu_range=[90, 40]", ["postprocess.hu_range:", "[90, 40]", "the lower HU first"]),
        ("postprocess.hu_range=[90]", ["postprocess.hu_range:", "[90]", "at least 2 items"]),
        ("postprocess.hu_ranges=[[20, 90], [2, 1]]", ["postprocess.hu_ranges.1:", "[2, 1]", "the lower HU first"]),
        ("network.block=dense", ["network.block:", "'dense'", "'plain' or 'residual'"]),
        ("network.stem_stride=3", ["network.stem_stride:", "3", "1 or 2"]),
        ("normalisation=zscore", ["normalisation:", "'zscore'", "'none' or 'brain'"]),
        ("windows=[]", ["windows:", "at least 1"]),
        ("name=Not A Name", ["name:", "'Not A Name'", "pattern"]),
        ("output.model_name=../x", ["output.model_name:", "'../x'", "pattern"]),
        ("kubeflow.host=kubeflow.example", ["kubeflow.host:", "'kubeflow.example'", "https://kubeflow.example/pipeline"]),
        ("kubeflow.host=http://a:b", ["kubeflow.host:", "must be the API's URL"]),
        ("kubeflow.host=http://a/?x=1", ["kubeflow.host:", "must be the API's URL"]),
        ("kubeflow.host=http://[::1", ["kubeflow.host:", "must be the API's URL"]),
        ("kubeflow.namespace=My_Team", ["kubeflow.namespace:", "'My_Team'", "pattern"]),
        ("kubeflow.pipeline_root=/data", ["kubeflow.pipeline_root:", "'/data'", "s3://, gs:// or minio://"]),
        ("kubeflow.timeout_seconds=0", ["kubeflow.timeout_seconds:", "0", "greater than 0"]),
        # layouts
        ("data.image=images/*.nii.gz", ["data.image:", "'images/*.nii.gz'", "{case} once"]),
        ("data.image='{case}/{case}.nii.gz'", ["data.image:", "{case} once"]),
        ("data.mask=/abs/{case}.nii.gz", ["data.mask:", "relative to the data folder"]),
        ("data.mask=../{case}.nii.gz", ["data.mask:", "stay inside it"]),
        ("data.mask='{case}/{series}.nii.gz'", ["data.mask:", "no placeholder but {case}, {patient}, {SPAN}"]),
        ("data.image='s{SPAN}/{case}.nii'", ["data:", "image and mask must tell spans alike"]),
        ("data.image='{SPAN}/{SPAN}/{case}.nii'", ["data.image:", "{SPAN} only once"]),
        ("data.mask='{YYYY}-{MM}/{case}.nii'", ["data.mask:", "all of {YYYY}, {MM}, {DD}"]),
        ("data.spans=2", ["data:", "spans: found 2", "span-{SPAN}/images/{case}.nii.gz"]),
        ("data.spans=0", ["data.spans:", "0", "greater than or equal to 1"]),
        ("data.patient='([0-9]+'", ["data.patient:", "'([0-9]+'", "regular expression"]),
        ("data.patient='[0-9]+'", ["data.patient:", "group that holds the patient id"]),
        # impossible combinations
        ("data.manifest=m.csv", ["data:", "either manifest or image and mask"]),
        ("data.mask=null", ["data:", "image and mask patterns, or a manifest"]),
        ("splits.train=80", ["splits:", "must be 100, found 110"]),
        ("grid.size=100", ["grid.size: found 100", "multiple of 16"]),
        ("windows=[{name: a, level: 1, width: 2}, {name: a, level: 2, width: 2}]", ["windows:", "['a', 'a']"]),
    ],
)  # fmt: skip
def test_refusal_names_path_value_and_what_is_allowed(minimal: Path, setting: str, wanted: list[str]) -> None:
    message = refusal(minimal, setting)
    assert message.startswith(f"{minimal}:")
    for part in wanted:
        assert part in message, message
    assert "pydantic" not in message
    assert "errors.pydantic.dev" not in message


def test_a_password_in_a_url_is_refused_and_not_repeated(minimal: Path) -> None:
    message = refusal(minimal, "kubeflow.host=https://me:hunter2@kubeflow.example")
    assert "kubeflow.host: must hold neither user nor password; put a token into kubeflow.token_file" in message
    assert "hunter2" not in message


TWO = """
name: tiny
data:
  sources:
    a: {image: "a/{case}.nii", mask: "a/{case}_m.nii"}
    b: {manifest: b.csv, lesion_labels: [2]}
"""


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        (["data.image='{case}.nii'"], "data: give either sources or one layout, found sources and image"),
        (["data.manifest=m.csv", "data.patient=(.)"], "found sources and manifest, patient"),
        (["data.sources.a.mask=null"], "data.sources.a: needs image and mask patterns, or a manifest"),
        (["data.sources.b.image='{case}.nii'"], "data.sources.b: give either manifest or image and mask, not both"),
        (["data.sources.c={}"], "data.sources.c: needs image and mask patterns"),
        (["data.sources.c=null"], "data.sources.c: found None"),
        (["data.sources.a.image='*.nii'"], "data.sources.a.image: found '*.nii'; must contain {case} once"),
        (["data.sources.a.imag=x"], "data.sources.a.imag: unknown key; did you mean image? allowed: image, lesion_"),
        (["data.sources.a.min_slices=2"], "data.sources.a.min_slices: unknown key"),
        (["data.sources={image: {imag: x}}"], "data.sources.image.imag: unknown key; did you mean image?"),
        (["data.sources.B={manifest: m.csv}"], "data.sources: found 'B', wanted a name of up to 31 small letters"),
        ([f"data.sources.{'c' * 32}={{manifest: m.csv}}"], "wanted a name of up to 31"),
        (["data.sources.a_b={manifest: m.csv}"], "data.sources: a and a_b might make one case id of two"),
        (["data.sources.b.manifest='{SPAN}.csv'"], "data: all sources must tell spans alike, found a none, b {SPAN}"),
        (["data.spans=2"], "data: spans: found 2, but the layout tells no spans apart"),
    ],
)  # fmt: skip
def test_refusal_of_sources(tmp_path: Path, settings: list[str], wanted: str) -> None:
    path = tmp_path / "two.yaml"
    path.write_text(TWO)
    message = refusal(path, *settings)
    assert wanted in message, message
    assert len(message.splitlines()) == 2


def test_sources_stand_in_place_of_the_one_layout(tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    path.write_text(TWO)
    found = load_config(path, ["data.lesion_labels=[1]", "data.sources.a.image=x/{case}.nii"]).data
    assert list(found.sources) == ["a", "b"]
    assert (found.sources["a"].image, found.sources["a"].lesion_labels) == ("x/{case}.nii", None)
    assert (found.image, found.lesion_labels, found.sources["b"].lesion_labels) == (None, [1], [2])
    dated = "s/{YYYY}{MM}{DD}"
    told = {"a.image": f"'{dated}/{{case}}.nii'", "a.mask": f"'m/{dated}/{{case}}.nii'", "b.manifest": f"'{dated}.csv'"}
    assert load_config(path, ["data.spans=2", *(f"data.sources.{key}={value}" for key, value in told.items())])


def test_combinations_of_two_allowed_values(minimal: Path) -> None:
    load_config(minimal, ["network.depth=7"])  # 256 pixels are two of 128
    load_config(minimal, ["training.dice_weight=0"])
    message = refusal(minimal, "network.depth=7", "grid.size=128")
    assert "network.depth: found 7, too deep for grid.size 128" in message
    message = refusal(minimal, "training.dice_weight=0", "training.cross_entropy_weight=0")
    assert "training: dice_weight and cross_entropy_weight must not both be 0" in message


def test_all_mistakes_are_listed_at_once(minimal: Path) -> None:
    message = refusal(minimal, "training.epochs=0", "grid.sise=64", "gate.max_dice_drop=2")
    assert len(message.splitlines()) == 4
    for path in ("training.epochs:", "grid.sise:", "gate.max_dice_drop:"):
        assert path in message


def test_what_must_be_given(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("grid:\n  size: 64\n")
    message = refusal(path)
    assert "name: missing" in message
    assert "data: missing" in message


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("name: [unclosed\n", "not valid YAML"),
        ("name: a\n\tdata: b\n", "not valid YAML"),
        ("just text", "found str, wanted a mapping"),
        ("", "found NoneType, wanted a mapping"),
        ("- a\n- b\n", "found list, wanted a mapping"),
        ("name: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
    ],
)
def test_what_is_no_mapping_is_refused(tmp_path: Path, text: str, wanted: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    message = refusal(path)
    assert message.startswith(f"{path}:")
    assert wanted in message
    assert len(message.splitlines()) == 1


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(b"name: \xff\xfe\x00")
    assert refusal(path).startswith(f"{path}: not valid YAML")


@pytest.mark.parametrize("source", ["nowhere.yaml", "nothing", "folder/nothing", "."])
def test_a_missing_config_names_those_there_are(source: str) -> None:
    message = refusal(source)
    assert message.startswith(f"{source}: no such configuration")
    assert "demo" in message
    assert "phe_sich" in message


@pytest.mark.parametrize(
    ("setting", "wanted"),
    [
        ("training.epochs", "wanted key.path=value"),
        ("=3", "wanted key.path=value"),
        ("", "wanted key.path=value"),
        ("windows=[{", "'[{' is not valid YAML; quote it"),
        ("data.mask={case}/mask.nii.gz", "'{case}/mask.nii.gz' is not valid YAML; quote it"),
        ("name.first=a", "name is no section"),
    ],
)
def test_malformed_overrides(minimal: Path, setting: str, wanted: str) -> None:
    message = refusal(minimal, setting)
    assert message.startswith(f"--set {setting}:")
    assert wanted in message


# --- what is read


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.e-3", "0.001", "+1e-3", ".001"])
def test_numbers_as_people_write_them(minimal: Path, text: str) -> None:
    assert load_config(minimal, [f"training.learning_rate={text}"]).training.learning_rate == 0.001


def test_a_name_that_looks_like_a_number_in_part_stays_text(minimal: Path) -> None:
    assert load_config(minimal, ["name=1e-3x"]).name == "1e-3x"


def test_overrides_reach_any_depth_and_the_last_one_wins(minimal: Path) -> None:
    config = load_config(
        minimal,
        ["training.augment.flip=false", "grid.size=64", "grid.size=128", "beam.args=[--a, --b]", "data.patient=^(..)"],
    )
    assert config.training.augment.flip is False
    assert config.training.augment.rotate_degrees == 15.0  # its neighbours keep their defaults
    assert config.grid.size == 128
    assert config.beam.args == ["--a", "--b"]
    assert config.data.patient == "^(..)"


def test_an_override_may_contain_equals_signs(minimal: Path) -> None:
    assert load_config(minimal, ["beam.args=['--x=1']"]).beam.args == ["--x=1"]


def test_sections_from_the_command_line_leave_out_what_was_not_given(minimal: Path) -> None:
    config = load_config(minimal, data={"root": "scans"}, output={"root": None})
    assert config.data.root == "scans"
    assert config.data.image == "i/{case}.nii.gz"
    assert config.output.root is None


def test_loading_twice_gives_the_same_and_a_config_cannot_be_changed(minimal: Path) -> None:
    config = load_config(minimal)
    assert config == load_config(minimal)
    with pytest.raises(ValueError, match="frozen"):
        config.training.epochs = 3  # type: ignore[misc]


@pytest.mark.parametrize("name", shipped_configs())
def test_shipped_configs_load_by_name_and_by_path(name: str) -> None:
    config = load_config(name)
    assert config == load_config(SHIPPED / f"{name}.yaml")
    assert config.name == name
    # What is printed by `ich config` can be read again.
    assert Config.model_validate(yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json")))) == config


def test_the_promised_configs_are_shipped() -> None:
    promised = {"bhsd", "ct_ich", "demo", "instance2022", "phe_sich", "production_gpu", "real_mixed"}
    assert promised <= set(shipped_configs())


def test_a_folder_of_a_shipped_name_does_not_hide_the_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "demo").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_config("demo").name == "demo"


def test_a_file_without_a_suffix_is_taken_before_a_shipped_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "demo").write_text(yaml.safe_dump(MINIMAL))
    monkeypatch.chdir(tmp_path)
    assert load_config("demo").name == "tiny"


@pytest.mark.parametrize(("context", "channels"), [(0, 3), (1, 9), (2, 15)])
def test_channels(minimal: Path, context: int, channels: int) -> None:
    assert load_config(minimal, [f"grid.context_slices={context}"]).channels == channels


def test_the_gate_bounds_slices_by_name(minimal: Path) -> None:
    config = load_config(minimal, ["gate.slices={no_bleed: 0.8, thick: 0}", "gate.slices.small=0.3"])
    assert json.loads(config.subset("gate"))["gate"]["slices"] == {"no_bleed": 0.8, "small": 0.3, "thick": 0.0}
    assert load_config(minimal).gate.slices == {}


# --- what is derived

CHANGES = {
    "name": "name=other",
    "data": "data.min_slices=2",
    "grid": "grid.spacing_mm=0.8",
    "windows": "windows=[{name: brain, level: 40, width: 80}]",
    "normalisation": "normalisation=brain",
    "splits": "splits.salt=x",
    "network": "network.dropout=0.1",
    "training": "training.seed=1",
    "tuner": "tuner.trials=3",
    "inference": "inference.mirror=true",
    "postprocess": "postprocess.threshold=0.4",
    "gate": "gate.min_mean_dice=0.6",
    "servability": "servability.max_load_seconds=7",
    "validation": "validation.skew=hold",
    "beam": "beam.args=[--a]",
    "kubeflow": "kubeflow.host=http://127.0.0.1:8888",
    "output": "output.model_name=other",
}


@pytest.mark.parametrize("settings", [["depth=2"], ["depth=1", "stem_stride=1"]])
def test_deep_supervision_needs_levels_to_supervise(minimal: Path, settings: list[str]) -> None:
    overrides = [f"network.{setting}" for setting in settings]
    load_config(minimal, overrides)
    with pytest.raises(UsageError, match="found 1 levels on the way up, wanted 2 or more; raise depth"):
        load_config(minimal, [*overrides, "network.deep_supervision=true"])


def test_attention_among_too_many_positions_is_refused(minimal: Path) -> None:
    load_config(minimal, ["network.bottleneck=attention", "grid.size=512", "network.depth=3"])
    with pytest.raises(UsageError, match=r"network\.bottleneck: .* 16384 positions .* at most 4096; raise"):
        load_config(minimal, ["network.bottleneck=attention", "grid.size=512", "network.depth=2"])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("grid.context_slices=1", r"grid\.context_slices: found 1, but network\.kind is 3d, .* set it to 0"),
        ("training.min_lesion_cm2=0.5", r"training\.min_lesion_cm2: found 0\.5, but network\.kind is 3d, .* to 0"),
        ("training.patch_slices=6", r"training\.patch_slices: found 6, wanted a multiple of 4 "),
        ("training.patch_size=40", r"training\.patch_size: found 40, wanted a multiple of 16 .* from 32 to grid"),
        ("training.patch_size=16", r"training\.patch_size: found 16, wanted a multiple of 16"),
        ("training.patch_size=512", r"training\.patch_size: found 512, wanted .* to grid\.size 256"),
        ("inference.overlap=0.95", r"inference\.overlap: found 0\.95"),
        ("network.kind=4d", r"network\.kind: found '4d'"),
    ],
)  # fmt: skip
def test_what_a_3d_network_cannot_do_is_refused(minimal: Path, setting: str, message: str) -> None:
    load_config(minimal, ["network.kind=3d", "training.patch_size=96"])
    with pytest.raises(UsageError, match=message):
        load_config(minimal, ["network.kind=3d", setting])


@pytest.mark.parametrize(
    ("depth", "thick", "stride", "factor"), [(4, 2, 2, 4), (4, 2, 1, 4), (4, 0, 2, 8), (4, 0, 1, 16), (3, 5, 1, 1)]
)
def test_slices_of_a_patch_are_a_multiple_of_their_halvings(
    minimal: Path, depth: int, thick: int, stride: int, factor: int
) -> None:
    """The same as the network's own: it joins its levels only where they are halved evenly."""
    overrides = [f"network.depth={depth}", f"network.thick_levels={thick}", f"network.stem_stride={stride}"]
    network = load_config(minimal, overrides).network
    assert network.slice_factor == factor
    section = {**network.model_dump(), "kind": "3d", "base_filters": 2}
    lowest = build_network(32, 1, section, slices=2 * factor).get_layer(f"encode{network.levels}_relu1")
    assert lowest.output.shape[1] == 2
    if factor > 1:
        with pytest.raises(ValueError, match="Concatenate"):
            build_network(32, 1, section, slices=2 * factor - 1)


def test_every_section_has_a_change_in_this_table() -> None:
    assert set(CHANGES) == set(Config.model_fields)


@pytest.mark.parametrize("section", CHANGES)
def test_fingerprint_changes_with_what_shapes_a_model_and_with_nothing_else(minimal: Path, section: str) -> None:
    before, after = load_config(minimal), load_config(minimal, [CHANGES[section]])
    assert before != after
    assert (before.fingerprint() != after.fingerprint()) == (section in MODEL_SECTIONS)


@pytest.mark.parametrize("section", CHANGES)
def test_subset_holds_its_sections_and_no_other(minimal: Path, section: str) -> None:
    before, after = load_config(minimal), load_config(minimal, [CHANGES[section]])
    assert before.subset(section) != after.subset(section)
    others = [name for name in CHANGES if name != section]
    assert before.subset(*others) == after.subset(*others)
    assert set(json.loads(before.subset(*others))) == set(others)


def test_a_search_shapes_a_model_only_where_there_is_one(minimal: Path) -> None:
    plain = load_config(minimal)
    on = load_config(minimal, ["tuner.enabled=true"])
    other = load_config(minimal, ["tuner.enabled=true", "tuner.seed=5"])
    assert len({plain.fingerprint(), on.fingerprint(), other.fingerprint()}) == 3
    # The hash of everything but the search, by hand: what models that were made before it was there carry.
    text = plain.subset(*MODEL_SECTIONS)
    assert plain.fingerprint() == hashlib.sha256(text.encode()).hexdigest()[:16]
    assert load_config(minimal, ["tuner.trials=3"]).fingerprint() == plain.fingerprint()


HYPERBAND = ("tuner.enabled=true", "tuner.algorithm=hyperband")
NOTHING = ("learning_rate", "cross_entropy_weight", "miss_weight", "base_filters")


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        (["tuner.space.learning_rate=[1e-2, 1e-3]"], ["space.learning_rate:", "[0.01, 0.001]", "lower end first"]),
        (["tuner.space.learning_rate=[1e-3, 1e-3]"], ["tuner.space.learning_rate:", "lower end first"]),
        (["tuner.space.learning_rate=[0.0, 1e-3]"], ["tuner.space.learning_rate.0:", "0.0", "greater than 0"]),
        (["tuner.space.learning_rate=[1e-3]"], ["tuner.space.learning_rate:", "at least 2 items"]),
        (["tuner.space.learning_rate=1e-3"], ["tuner.space.learning_rate:", "0.001", "list"]),
        (["tuner.space.dice_weight=[-1, 1]"], ["tuner.space.dice_weight.0:", "-1", "greater than or equal to 0"]),
        (["tuner.space.miss_weight=[0.5, 1.5]"], ["tuner.space.miss_weight.1:", "1.5", "less than or equal to 1"]),
        (["tuner.space.base_filters=[16]"], ["tuner.space.base_filters:", "[16]", "two different numbers or more"]),
        (["tuner.space.base_filters=[16, 16]"], ["tuner.space.base_filters:", "two different numbers or more"]),
        (["tuner.space.base_filters=[1, 16]"], ["tuner.space.base_filters.0:", "1", "greater than or equal to 2"]),
        (["tuner.space.depth=[3, 4]"], ["tuner.space.depth:", "unknown key", "base_filters"]),
        (["tuner.algorithm=grid"], ["tuner.algorithm:", "'grid'", "bayesian"]),
        (["tuner.trials=0"], ["tuner.trials:", "greater than or equal to 1"]),
        (["tuner.max_minutes=0"], ["tuner.max_minutes:", "greater than 0"]),
        (
            ["tuner.enabled=true", *(f"tuner.space.{name}=null" for name in NOTHING)],
            ["tuner: space: found nothing to search", "learning_rate", "tuner.enabled=false"],
        ),
        ([*HYPERBAND, "tuner.epochs=10"], ["tuner: trials: found 12, wanted 18 or more", "10 epochs", "algorithm"]),
        (
            ["tuner.enabled=true", "tuner.space.dice_weight=[0, 1]", "tuner.space.cross_entropy_weight=[0, 1]"],
            ["tuner.space: dice_weight and cross_entropy_weight could both become 0", "above 0"],
        ),
        (
            ["tuner.enabled=true", "training.dice_weight=0", "tuner.space.cross_entropy_weight=[0, 1]"],
            ["could both become 0"],
        ),
    ],
)
def test_a_search_that_cannot_be_is_refused(minimal: Path, settings: list[str], wanted: list[str]) -> None:
    text = refusal(minimal, *settings)
    for part in wanted:
        assert part in text, text


@pytest.mark.parametrize(
    "settings",
    [
        ["tuner.enabled=true"],
        [*HYPERBAND, "tuner.epochs=10", "tuner.trials=18"],
        ["tuner.algorithm=hyperband"],  # not enabled: nothing to refuse yet
        [f"tuner.space.{name}=null" for name in NOTHING],
        ["tuner.enabled=true", "tuner.space.dice_weight=[0, 1]"],
        ["tuner.enabled=true", "training.cross_entropy_weight=0", "tuner.space.dice_weight=[0, 1]"],
    ],
)
def test_a_search_that_can_be_is_accepted(minimal: Path, settings: list[str]) -> None:
    load_config(minimal, settings)


def test_where_things_lie_is_in_no_hash(minimal: Path) -> None:
    before, after = load_config(minimal), load_config(minimal, ["data.root=a", "output.root=b"])
    assert before != after
    assert before.subset("data", "output") == after.subset("data", "output")
    assert after.model_dump()["data"]["root"] == "a"


def test_a_default_that_is_written_out_changes_nothing(minimal: Path) -> None:
    plain, explicit = load_config(minimal), load_config(minimal, ["training.epochs=30", "grid.size=256"])
    assert plain.fingerprint() == explicit.fingerprint()
    assert plain.subset("grid", "training") == explicit.subset("training", "grid")


def beam_args(minimal: Path, *settings: str) -> list[str]:
    return load_config(minimal, [f"beam.{setting}" for setting in settings]).beam.pipeline_args()


def test_beam_runs_in_this_process_unless_told_otherwise(minimal: Path) -> None:
    args = beam_args(minimal, "args=[--extra=1]")
    assert [item for item in args if item.startswith("--runner=")] == [args[0]]
    assert "FnApiRunner" in args[0]
    assert "--direct_running_mode=in_memory" in args
    assert args[-1] == "--extra=1"  # so that it wins over ours


@pytest.mark.parametrize(("setting", "workers"), [("workers=3", 3), ("workers=null", 0)])
def test_beam_in_several_processes(minimal: Path, setting: str, workers: int) -> None:
    args = beam_args(minimal, "runner=multi_processing", setting)
    assert args[0] == "--runner=pipeline.processes.MultiProcessingRunner"
    assert "--direct_running_mode=multi_processing" in args
    assert f"--direct_num_workers={workers}" in args  # 0: as many as there are cores


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        (["runner=FlinkRunner", "workers=16", "args=[--flink_master=h:1]"], ["--parallelism=16", "--flink_master=h:1"]),
        (["runner=DataflowRunner", "workers=256"], ["--max_num_workers=256"]),
        (["runner=SparkRunner", "args=[--spark_version=3]"], ["--spark_version=3"]),
        (["runner=apache_beam.runners.dask.dask_runner.DaskRunner"], []),
    ],
)
def test_workers_elsewhere_are_sent_the_package(minimal: Path, settings: list[str], wanted: list[str]) -> None:
    runner = settings[0].partition("=")[2]
    setup = Path(__file__).parents[2] / "setup.py"
    always = [f"--runner={runner}", "--beam_plugin=tfx", f"--setup_file={setup}"]
    assert beam_args(minimal, *settings) == [*always, *wanted]


def test_workers_that_have_the_package_already_are_not(minimal: Path) -> None:
    image = "--sdk_container_image=ich-worker:1"
    args = beam_args(minimal, "runner=FlinkRunner", f"args=[{image}]")
    assert args == ["--runner=FlinkRunner", "--beam_plugin=tfx", image]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["runner=FlinkRuner"], "beam.runner: found 'FlinkRuner'; no such runner; did you mean FlinkRunner? allowed: "),
        (["runner=dataflow"], "did you mean DataflowRunner?"),
        (["runner=a.b/c"], "allowed: in_process, multi_processing, DataflowRunner, "),
        (["runner=no_such.Runner"], "beam.runner: found 'no_such.Runner'; no package no_such is installed here"),
        (["stages=[Trainer]"], "beam.stages.0: found 'Trainer'"),
        (["workers=4"], "beam: workers: found 4, but in_process takes no number of workers; "),
        (["runner=SparkRunner", "workers=4"], "found 4, but SparkRunner takes no number of workers"),
        (["workers=0", "runner=FlinkRunner"], "beam.workers: found 0"),
        (["args=[--runner=FlinkRunner]"], "args: found --runner, which has a key of its own; set beam.runner instead"),
        (["args=[x]"], "args: found 'x', wanted an option such as --region=europe-west4"),
    ],
)
def test_beam_settings_that_lead_nowhere_are_refused(minimal: Path, settings: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_config(minimal, [f"beam.{setting}" for setting in settings])
    assert message in str(caught.value)


def test_an_installed_package_has_no_setup_file_to_send(minimal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beam = load_config(minimal, ["beam.runner=FlinkRunner"]).beam
    monkeypatch.setattr("pipeline.config.__file__", str(minimal.parent / "site-packages/pipeline/config.py"))
    with pytest.raises(UsageError, match=r"FlinkRunner needs this package on its workers, .*--sdk_container_image"):
        beam.pipeline_args()


def test_source_shares_name_every_source_and_no_other() -> None:
    shares = load_config("real_mixed", ["training.source_shares={phe_sich: 1, ct_ich: 2.5}"]).training.source_shares
    assert shares == {"phe_sich": 1.0, "ct_ich": 2.5}
    with pytest.raises(UsageError, match=r"found ct_ich, wanted a share for every key .*: phe_sich, ct_ich"):
        load_config("real_mixed", ["training.source_shares={ct_ich: 2.0}"])
    with pytest.raises(UsageError, match="there is none, so leave it out"):
        load_config("demo", ["training.source_shares={a: 1.0}"])
    with pytest.raises(UsageError, match=r"source_shares\.ct_ich"):
        load_config("real_mixed", ["training.source_shares={ct_ich: 0, phe_sich: 1}"])
