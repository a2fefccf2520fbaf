"""The graph: which stage follows which, and what is cached on what."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tfx.v1 as tfx
from tfx.dsl.compiler import compiler

from components.starting_point.state import State
from pipeline.config import Config, load_config
from pipeline.pipeline import Places, create_pipeline
from schema import features as f

STAGES = [
    "NiftiExampleGen", "StatisticsGen", "CuratedSchema", "DataValidator", "DataReporter", "DataGate", "Transform",
    "Trainer", "ServedModel", "Evaluator", "RunReporter", "Servability", "Pusher",
]  # fmt: skip


def local(folder: Path) -> Places:
    """Places below a folder, with a metadata store."""
    return Places(
        data=str(folder / "data"),
        artifacts=str(folder / "artifacts"),
        serving=str(folder / "serving" / "ich"),
        statistics=str(folder / "statistics"),
        work=str(folder / "work"),
        metadata=folder / "metadata.sqlite",
    )


def nodes(config: Config, places: Places, **state: str) -> dict[str, Any]:
    """The compiled stages by name, in order."""
    compiled = compiler.Compiler().compile(create_pipeline(config, places, State(**state)))
    return {node.pipeline_node.node_info.id: node.pipeline_node for node in compiled.nodes}


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return nodes(load_config("demo"), local(tmp_path_factory.mktemp("out")))


def before(stages: dict[str, Any], name: str) -> set[str]:
    """Every stage that has to end before a stage starts."""
    found: set[str] = set()
    open_ends = [name]
    while open_ends:
        direct = set(stages[open_ends.pop()].upstream_nodes) - found
        found |= direct
        open_ends += direct
    return found


def test_every_stage_runs_after_what_it_needs(stages: dict[str, Any]) -> None:
    assert sorted(stages) == sorted(STAGES)
    done: set[str] = set()
    for name, stage in stages.items():
        assert set(stage.upstream_nodes) <= done, name
        done.add(name)


@pytest.mark.parametrize(
    ("name", "direct"),
    [
        ("StatisticsGen", {"NiftiExampleGen"}),
        ("DataValidator", {"NiftiExampleGen", "StatisticsGen", "CuratedSchema"}),
        ("DataReporter", {"NiftiExampleGen", "DataValidator"}),
        ("DataGate", {"NiftiExampleGen", "StatisticsGen", "DataValidator", "DataReporter"}),
        ("Transform", {"NiftiExampleGen", "CuratedSchema", "DataGate"}),
        ("Trainer", {"NiftiExampleGen", "CuratedSchema", "Transform"}),
        ("ServedModel", set()),
        ("Evaluator", {"NiftiExampleGen", "CuratedSchema", "Trainer", "ServedModel"}),
        ("RunReporter", {"NiftiExampleGen", "Trainer", "Evaluator", "DataValidator"}),
        ("Servability", {"Trainer", "Evaluator"}),
        ("Pusher", {"NiftiExampleGen", "Trainer", "Evaluator", "Servability", "DataValidator"}),
    ],
)
def test_direct_dependencies(stages: dict[str, Any], name: str, direct: set[str]) -> None:
    assert set(stages[name].upstream_nodes) == direct


def test_nothing_is_trained_on_data_that_was_not_validated(stages: dict[str, Any]) -> None:
    for name in ("Transform", "Trainer", "Evaluator", "Pusher"):
        assert {"DataValidator", "DataReporter", "DataGate"} <= before(stages, name)


def test_a_report_that_fails_holds_no_push(stages: dict[str, Any]) -> None:
    assert "RunReporter" not in before(stages, "Pusher")
    assert "Pusher" not in before(stages, "RunReporter")  # nor does it take a push to see why there was none


def test_no_resolver_node(stages: dict[str, Any], tmp_path: Path) -> None:
    for component in create_pipeline(load_config("demo"), local(tmp_path), None).components:
        assert not isinstance(component, tfx.dsl.Resolver)
    assert not any("resolver" in stage.node_info.type.name.lower() for stage in stages.values())


def test_every_stage_is_cached(stages: dict[str, Any]) -> None:
    assert {stage.execution_options.caching_options.enable_cache for stage in stages.values()} == {True}


def parameters(stage: Any) -> dict[str, str]:
    """What the cache key of a stage holds besides its inputs, without the run's own data."""
    found = {}
    for name, value in stage.parameters.parameters.items():
        found[name] = str(value)
    return found


def last(arguments: list[str], option: str) -> str:
    """The value that Beam goes by."""
    return [item.partition("=")[2] for item in arguments if item.startswith(f"--{option}=")][-1]


def beam_stages(folder: Path, *settings: str) -> dict[str, list[str]]:
    """Beam's arguments by stage."""
    components = create_pipeline(load_config("demo", settings), local(folder), State()).components
    return {
        component.id: component.executor_spec.beam_pipeline_args
        for component in components
        if hasattr(component.executor_spec, "beam_pipeline_args")
    }


def test_stages_that_go_over_the_data_run_where_the_configuration_says(tmp_path: Path) -> None:
    found = beam_stages(tmp_path, "beam.runner=FlinkRunner", "beam.stages=[NiftiExampleGen, Evaluator]")
    runners = {name: last(arguments, "runner") for name, arguments in found.items()}
    here = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"
    assert runners == {
        "NiftiExampleGen": "FlinkRunner", "Evaluator": "FlinkRunner", "StatisticsGen": here, "Transform": here,
    }  # fmt: skip
    in_several = beam_stages(tmp_path, "beam.runner=multi_processing")
    for stage, (mode, workers) in {"Transform": ("in_memory", "1"), "Evaluator": ("multi_processing", "0")}.items():
        assert last(in_several[stage], "direct_running_mode") == mode
        assert last(in_several[stage], "direct_num_workers") == workers


def changed(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    """Stages whose own parameters differ."""
    return {name for name in one if parameters(one[name]) != parameters(other[name])}


SHOWN = {"RunReporter", "Pusher"}
"""Page and card tell of every setting; a model that is in service already is not pushed again for that."""


@pytest.mark.parametrize(
    ("setting", "wanted"),
    [
        ("gate.min_mean_dice=0.9", {"Evaluator"}),
        ("validation.drift=note", {"DataValidator"}),
        ("servability.max_memory_mib=null", {"Servability"}),
        ("training.epochs=99", {"Trainer"}),
        ("network.base_filters=12", {"Trainer"}),
        ("postprocess.threshold=0.4", {"Trainer"}),
        ("normalisation=brain", {"Transform", "Trainer"}),
        ("grid.spacing_mm=1.9", {"NiftiExampleGen", "Transform", "Trainer", "ServedModel"}),
        ("splits.salt=x", {"NiftiExampleGen", "Trainer"}),
        ("data.min_slices=2", {"NiftiExampleGen"}),
        ("data.max_quarantined=0.2", {"NiftiExampleGen", "DataValidator"}),
        ("data.root=elsewhere", set()),
        ("output.root=elsewhere", set()),
    ],
)
def test_a_setting_reruns_the_stages_that_it_concerns(stages: dict[str, Any], tmp_path: Path, setting: str,
                                                     wanted: set[str]) -> None:  # fmt: skip
    base = nodes(load_config("demo"), local(tmp_path))
    shown = set() if setting.endswith("root=elsewhere") else SHOWN
    assert changed(base, nodes(load_config("demo", [setting]), local(tmp_path))) == wanted | shown


def test_another_model_in_service_makes_the_gate_look_anew(tmp_path: Path) -> None:
    config, places = load_config("demo"), local(tmp_path)
    one, other = nodes(config, places, serving="1"), nodes(config, places, serving="1,2")
    assert changed(one, other) == {"ServedModel", "DataValidator"}
    assert changed(one, nodes(config, places, serving="1")) == set()
    assert changed(one, nodes(config, places, serving="1", statistics="a")) == {"DataValidator"}


def test_an_edited_schema_is_not_served_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, places = load_config("demo"), local(tmp_path)
    base = nodes(config, places)
    edited = tmp_path / "schema.pbtxt"
    edited.write_text(create_pipeline.__globals__["SCHEMA"].read_text().replace("threshold: 0.1", "threshold: 0.2"))
    monkeypatch.setitem(create_pipeline.__globals__, "SCHEMA", edited)
    assert changed(base, nodes(config, places)) == {"CuratedSchema"}


def test_other_code_reruns_its_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = nodes(load_config("demo"), local(tmp_path))
    for part, wanted in {
        "imaging": {"NiftiExampleGen", "DataReporter", "Trainer", "Evaluator", "Servability"},
        "nifti_example_gen": {"NiftiExampleGen"},
        "data_validator": {"DataValidator", "DataGate", "Pusher"},
        "data_report": {"DataReporter"},
        "pages": {"DataReporter"},
        "run_report": set(),
        "data_gate": {"DataGate"},
        "transform": {"Transform", "Trainer"},
        "trainer": {"Trainer"},
        "evaluator": {"Evaluator"},
        "served_model": {"ServedModel"},
        "servability": {"Servability"},
        "serving": {"DataValidator", "Trainer", "Servability"},
        "pusher": {"Pusher"},
        "storage": {"NiftiExampleGen", "DataValidator", "DataGate", "ServedModel", "Pusher"},
        "schema": {"NiftiExampleGen", "DataReporter", "Transform", "Trainer", "Servability"},
    }.items():
        real = create_pipeline.__globals__["code_version"]
        with monkeypatch.context() as patch:
            patch.setitem(
                create_pipeline.__globals__,
                "code_version",
                lambda *parts, part=part, real=real: real(*parts) + ("changed" if part in parts else ""),
            )
            # The report names the program as a whole.
            assert changed(base, nodes(load_config("demo"), local(tmp_path))) == {*wanted, "RunReporter"}, part


TUNED = ["tuner.enabled=true"]


def test_a_search_stands_between_transform_and_trainer(stages: dict[str, Any], tmp_path: Path) -> None:
    tuned = nodes(load_config("demo", TUNED), local(tmp_path))
    names = list(tuned)
    assert sorted(names) == sorted([*STAGES, "Tuner"])
    assert names.index("Transform") < names.index("Tuner") < names.index("Trainer")
    assert set(tuned["Tuner"].upstream_nodes) == {"NiftiExampleGen", "CuratedSchema", "Transform"}
    assert set(tuned["Trainer"].upstream_nodes) == {"NiftiExampleGen", "CuratedSchema", "Transform", "Tuner"}
    (channel,) = tuned["Trainer"].inputs.inputs["hyperparameters"].channels
    assert (channel.producer_node_query.id, channel.output_key) == ("Tuner", "best_hyperparameters")
    assert tuned["Tuner"].execution_options.caching_options.enable_cache
    # Off, the graph knows nothing of it.
    assert "hyperparameters" not in stages["Trainer"].inputs.inputs
    assert "tuner" not in parameters(stages["Trainer"])["custom_config"]


def test_a_search_of_3d_networks_knows_how_windows_overlap(tmp_path: Path) -> None:
    """Its trials validate on whole scans; in 2D nothing of the section concerns it."""
    volumes = [*TUNED, "network.kind=3d", "grid.context_slices=0", "network.thick_levels=0"]
    base = nodes(load_config("demo", volumes), local(tmp_path))
    other = nodes(load_config("demo", [*volumes, "inference.overlap=0.25"]), local(tmp_path))
    assert {"Tuner", "Trainer"} < changed(base, other)
    flat = nodes(load_config("demo", TUNED), local(tmp_path))
    assert "overlap" in parameters(base["Tuner"])["custom_config"]
    assert "overlap" not in parameters(flat["Tuner"])["custom_config"]


def test_a_search_that_is_off_reruns_nothing(tmp_path: Path) -> None:
    base = nodes(load_config("demo"), local(tmp_path))
    assert changed(base, nodes(load_config("demo", ["tuner.trials=3", "tuner.seed=9"]), local(tmp_path))) == set()


def test_another_cluster_reruns_nothing(tmp_path: Path) -> None:
    base = nodes(load_config("demo"), local(tmp_path))
    other = load_config("demo", ["kubeflow.host=http://127.0.0.1:8888", "kubeflow.pipeline_root=s3://bucket/ich"])
    assert changed(base, nodes(other, local(tmp_path))) == set()


@pytest.mark.parametrize(
    ("setting", "wanted"),
    [
        ("tuner.trials=13", {"Tuner", "Trainer"}),
        ("tuner.max_minutes=5", {"Tuner", "Trainer"}),
        ("tuner.space.miss_weight=null", {"Tuner", "Trainer"}),
        ("network.depth=3", {"Tuner", "Trainer"}),
        ("postprocess.threshold=0.4", {"Tuner", "Trainer"}),
        ("inference.mirror=true", {"Trainer"}),
        ("output.model_name=other", {"Trainer"}),
        ("gate.min_mean_dice=0.9", {"Evaluator"}),
    ],
)
def test_a_setting_reruns_the_search_that_it_concerns(tmp_path: Path, setting: str, wanted: set[str]) -> None:
    base = nodes(load_config("demo", TUNED), local(tmp_path))
    found = changed(base, nodes(load_config("demo", [*TUNED, setting]), local(tmp_path)))
    assert found - {"ServedModel", "DataValidator", "DataGate"} == wanted | SHOWN


def test_other_code_reruns_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config("demo", TUNED)
    base = nodes(config, local(tmp_path))
    real = create_pipeline.__globals__["code_version"]
    for part in ("tuner", "trainer", "transform", "imaging", "schema"):
        with monkeypatch.context() as patch:
            patch.setitem(
                create_pipeline.__globals__,
                "code_version",
                lambda *parts, part=part: real(*parts) + ("changed" if part in parts else ""),
            )
            assert "Tuner" in changed(base, nodes(config, local(tmp_path))), part


def test_statistics_leave_the_pixels_out(stages: dict[str, Any]) -> None:
    options = json.loads(stages["StatisticsGen"].parameters.parameters["stats_options_json"].field_value.string_value)
    assert set(options["_feature_allowlist"]) == set(f.STATISTICS_FEATURES)
    assert not set(options["_feature_allowlist"]) & set(f.BYTES_FEATURES)


def test_transform_makes_no_second_copy_of_the_images(stages: dict[str, Any]) -> None:
    transform = stages["Transform"]
    assert "transformed_examples" not in transform.outputs.outputs
    found = transform.parameters.parameters
    assert found["materialize"].field_value.int_value == 0
    assert found["disable_statistics"].field_value.int_value == 1


def test_where_it_runs_shapes_no_result(stages: dict[str, Any], tmp_path: Path) -> None:
    base = nodes(load_config("demo"), local(tmp_path))
    for setting in ("kubeflow.image=ich:2", "beam.args=[--direct_num_workers=2]"):
        assert changed(base, nodes(load_config("demo", [setting]), local(tmp_path))) == set(), setting


def test_compiled_ahead_a_stage_looks_first(tmp_path: Path) -> None:
    compiled = compiler.Compiler().compile(create_pipeline(load_config("demo"), local(tmp_path), None))
    assert {node.pipeline_node.node_info.id for node in compiled.nodes} == {*STAGES, "StartingPoint"}
