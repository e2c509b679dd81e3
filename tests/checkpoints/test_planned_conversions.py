"""Conversions that a plan puts in, and checkpoints that are chosen by `@`."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from small_models import Made

from nemotron.artifacts.references import parse_reference
from nemotron.catalog.discover import load_catalog
from nemotron.catalog.routes import find_conversion, find_route
from nemotron.checkpoints.convert_hf_to_megatron import hf_to_megatron
from nemotron.errors import CheckFailed, NotFound, UsageError
from nemotron.planning.build import plan_step
from nemotron.planning.plan import Plan, PlannedInput
from nemotron.planning.render import render_plan
from nemotron.planning.request import Request

Make = Callable[..., Made]
STEP = """
    [step]
    id = "use/megatron"
    description = "Lists a checkpoint."

    [[consumes]]
    name = "policy"
    type = "checkpoint_megatron"
    config = "policy"

    [[produces]]
    name = "found"
    type = "eval_results"
    config = "output"

    [run]
    engines = ["script"]
    launch = "python"
"""
SCRIPT = """
    import json, sys, yaml
    from pathlib import Path

    config = yaml.safe_load(Path(sys.argv[2]).read_text())
    names = sorted(p.name for p in Path(config["policy"]).iterdir())
    Path(config["output"]).write_text(json.dumps({"names": names}))
"""


@pytest.fixture
def catalog(world: Any) -> Iterator[Path]:
    """The step `use/megatron`, in the catalog of the world."""
    place = world.catalog / "use" / "megatron"
    (place / "config").mkdir(parents=True)
    (place / "step.toml").write_text(textwrap.dedent(STEP))
    (place / "step.py").write_text(textwrap.dedent(SCRIPT))
    (place / "config" / "default.yaml").write_text("policy: ???\noutput: found.json\n")
    yield place


def planned(policy: str | Path, step: str = "use/megatron", config: str | None = None) -> Plan:
    return plan_step(Request(step, config, inputs={"policy": str(policy)}))


def policy_of(plan: Plan) -> PlannedInput:
    return next(i for i in plan.inputs if i.port == "policy")


def size(path: Path) -> int:
    """Of the weights."""
    return sum(p.stat().st_size for p in path.rglob("*.safetensors"))


def test_a_model_of_the_other_format_is_converted_first(catalog: Path, make_model: Make) -> None:
    model = make_model("qwen3").path
    plan = planned(model)
    ((key, build),) = plan.builds
    found = policy_of(plan)
    assert (found.state, found.type, found.build) == ("to_build", "checkpoint_megatron", key)
    assert found.converted == {
        "from": "checkpoint_hf",
        "source": str(model),
        "by": ["convert/hf_to_megatron"],
        "engines": ["script"],
        "bytes": size(model),
    }
    assert build.recipe.step == "convert/hf_to_megatron"
    assert build.inputs[0].path == str(model)
    assert (
        f"checkpoint_hf, {size(model):,} bytes, converted by convert/hf_to_megatron on script"
        in render_plan(plan)
    )
    assert Plan.from_dict(plan.as_dict()) == plan


def test_what_fits_is_not_converted(catalog: Path, make_model: Make, tmp_path: Path) -> None:
    hf_to_megatron(make_model("llama").path, tmp_path / "megatron")
    plan = planned(tmp_path / "megatron")
    assert (policy_of(plan).state, plan.builds, policy_of(plan).converted) == ("pinned", (), {})


def test_it_is_converted_once_and_found_again(
    world: Any, catalog: Path, make_model: Make, cli: Callable[..., Any]
) -> None:
    words = ("steps", "run", "use/megatron", "-i", f"policy={make_model('mistral').path}")
    first = cli(*words, "--json")
    assert first.code == 0, first.err
    found = json.loads((world.home / "runs" / first.json["run"] / "found.json").read_text())["names"]
    assert "iter_0000000" in found
    assert cli(*words, "--json").json["run"] == first.json["run"]
    steps = [each["step"] for each in cli("runs", "list", "--json").json["runs"]]
    assert sorted(steps) == ["convert/hf_to_megatron", "use/megatron"]
    shown = cli(*words, "-d").out
    assert "converted by convert/hf_to_megatron on script to checkpoint_megatron" in shown


def test_a_run_a_name_and_a_hub_id_are_converted_too(
    world: Any, catalog: Path, make_model: Make, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    hf_to_megatron(make_model("llama").path, tmp_path / "megatron")
    made = cli("steps", "run", "convert/megatron_to_hf", "-i", f"model={tmp_path / 'megatron'}", "--json")
    assert made.code == 0, made.err
    by_run = policy_of(planned(f"run://{made.json['run']}"))
    assert (by_run.converted["from"], by_run.converted["source"]) == (
        "checkpoint_hf",
        f"run://{made.json['run']}/model",
    )
    assert cli("artifacts", "alias", f"run://{made.json['run']}/model", "base").code == 0
    assert policy_of(planned("art://base")).converted["source"] == "art://base"
    hub = policy_of(planned("hf://org/name"))
    assert (hub.converted["source"], hub.converted["bytes"]) == ("hf://org/name", None)


def test_an_output_that_is_still_to_be_built_is_converted_after_it(world: Any) -> None:
    plan = plan_step(Request("rl/nemo_rl/rlhf", "tiny"))
    keys = [key for key, _ in plan.builds]
    converted = policy_of(plan)
    assert converted.converted["by"] == ["convert/hf_to_megatron"]
    assert converted.converted["bytes"] is None
    assert keys.index("step://sft/nemo_rl?config=tiny") < keys.index(str(converted.build))
    assert "its size is known once it is built" in render_plan(plan)


def test_where_no_conversion_leads_the_refusal_stays(world: Any, write_rows: Callable[..., Path]) -> None:
    with pytest.raises(CheckFailed, match="makes nothing that input policy takes"):
        planned("step://data_prep/scratch?config=tiny", "rl/nemo_rl/dpo", "tiny")
    plan = planned(write_rows("rows.jsonl", "training_jsonl"), "rl/nemo_rl/dpo", "tiny")
    assert (policy_of(plan).state, policy_of(plan).converted) == ("missing", {})


def test_routes_take_the_fewest_conversions_before_any_steps(world: Any) -> None:
    catalog = load_catalog()

    def ids(have: str, want: str) -> list[str] | None:
        hops = find_route(catalog, catalog.types, have, (want,))
        return None if hops is None else [hop.step.id for hop in hops]

    assert ids("reward_model_hf", "checkpoint_hf") == []
    assert ids("checkpoint_lora", "checkpoint_megatron") == ["convert/merge_lora", "convert/hf_to_megatron"]
    assert ids("checkpoint_megatron", "checkpoint_hf") == ["convert/megatron_to_hf"]
    assert ids("rollout_jsonl", "reward_model_hf") == ["data_prep/gym_rollouts", "rm/nemo_rl"]
    assert ids("eval_results", "checkpoint_hf") is None
    assert find_conversion(catalog, catalog.types, "rollout_jsonl", ("preference_jsonl",)) is None


def test_steps_path_prints_the_way(make_model: Make, cli: Callable[..., Any]) -> None:
    done = cli("steps", "path", str(make_model("llama").path), "checkpoint_megatron", "--json")
    assert (done.code, done.json["from"], done.json["to"]) == (0, "checkpoint_hf", "checkpoint_megatron")
    assert done.json["route"] == [
        {
            "step": "convert/hf_to_megatron",
            "input": "model",
            "output": "model",
            "type": "checkpoint_megatron",
            "kind": "conversion",
            "also_needs": [],
        }
    ]
    assert (
        "convert/hf_to_megatron -i model=..."
        in cli("steps", "path", "checkpoint_hf", "checkpoint_megatron").out
    )
    assert "is checkpoint_hf already" in cli("steps", "path", "checkpoint_hf", "checkpoint_hf").out
    wrong = cli("steps", "path", "chekpoint_hf", "checkpoint_megatron")
    assert (wrong.code, "nearest: checkpoint_hf" in wrong.err) == (3, True)
    nowhere = cli("steps", "path", "eval_results", "checkpoint_hf")
    assert (nowhere.code, "no steps lead from" in nowhere.err) == (3, True)


class TestChosenCheckpoints:
    """`DIRECTORY@SELECTION` and `run://RUN/PORT@SELECTION`."""

    @pytest.fixture
    def root(self, make_model: Make, tmp_path: Path) -> Path:
        """Three steps as the embedded engine leaves them, ranked by `val:loss`."""
        root = tmp_path / "checkpoints"
        for step, loss in ((10, 0.3), (20, 0.1), (30, 0.2)):
            made = make_model("qwen2", f"made_{step}", seed=step).path
            (root / f"step_{step}").mkdir(parents=True)
            made.rename(root / f"step_{step}" / "policy")
            (root / f"step_{step}" / "training_info.json").write_text(
                json.dumps({"val:loss": loss, "step": step})
            )
        (root / "metric.json").write_text('{"metric_name": "val:loss", "higher_is_better": false}')
        return root

    @pytest.mark.parametrize(
        ("selection", "step"), [("latest", 30), ("best", 20), ("step:10", 10), ("best:max:val:loss", 10)]
    )
    def test_a_selection_is_resolved_and_pinned(
        self, world: Any, root: Path, selection: str, step: int
    ) -> None:
        found = policy_of(planned(f"{root}@{selection}", "rl/nemo_rl/dpo", "tiny"))
        assert (found.state, found.path) == ("pinned", str(root / f"step_{step}" / "policy"))
        assert found.reference == f"{root}@{selection}"
        assert str(found.digest).startswith("blake3:")

    def test_a_relative_one_is_no_hub_id(
        self, world: Any, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(root.parent.parent)
        found = policy_of(planned(f"{root.parent.name}/checkpoints@best", "rl/nemo_rl/dpo", "tiny"))
        assert found.path == str(root / "step_20" / "policy")

    def test_it_can_be_converted(self, catalog: Path, root: Path) -> None:
        plan = planned(f"{root}@best")
        assert policy_of(plan).converted["source"] == f"{root}@best"
        assert plan.builds[0][1].inputs[0].path == str(root / "step_20" / "policy")

    @pytest.mark.parametrize(
        ("selection", "kind", "said"),
        [
            ("step:11", NotFound, "no checkpoint of step 11"),
            ("best:nothing", NotFound, "no checkpoint has the metric 'nothing'"),
            ("best:step", UsageError, "whether a higher step is better"),
        ],
    )
    def test_one_that_is_not_there_is_told(
        self, world: Any, root: Path, selection: str, kind: type[Exception], said: str
    ) -> None:
        with pytest.raises(kind, match=said):
            planned(f"{root}@{selection}", "rl/nemo_rl/dpo", "tiny")

    def test_references_keep_their_text(self) -> None:
        for text in ("/a/b@latest", "run://some-run/policy@step:7", "run://some-run@best:val:loss", "/a@b/c"):
            assert str(parse_reference(text)) == text
        assert parse_reference("/a@b/c").selection is None
        assert parse_reference("/a/b@newest").selection is None

    def test_runs_diff_takes_two_checkpoints(self, world: Any, root: Path, cli: Callable[..., Any]) -> None:
        same = cli("runs", "diff", f"{root}@best", f"{root}@step:20")
        assert (same.code, "the same" in same.out) == (0, True)
        other = cli("runs", "diff", f"{root}@best", f"{root}@latest", "--json").json
        assert (other["equal"], other["same"], other["only_first"]) == (False, 0, [])
        assert "model.embed_tokens.weight" in other["numbers"]
        mixed = cli("runs", "diff", "some-run", f"{root}@latest")
        assert (mixed.code, "cannot be compared" in mixed.err) == (2, True)

    def test_artifacts_show_looks_into_a_model_that_nobody_recorded(
        self, world: Any, root: Path, cli: Callable[..., Any]
    ) -> None:
        shown = cli("artifacts", "show", str(root / "step_10" / "policy"), "--json")
        assert (shown.code, shown.json["artifacts"]) == (0, [])
        assert shown.json["checkpoint"]["format"] == "hf"
        assert shown.json["checkpoint"]["layers"] == 3

    def test_artifacts_are_those_of_the_checkpoint_that_is_chosen(
        self, world: Any, root: Path, cli: Callable[..., Any]
    ) -> None:
        assert cli("artifacts", "add", str(root)).code != 0, "a directory of checkpoints is no artifact"
        added = cli("artifacts", "add", f"{root}@step:10", "--json")
        assert added.code == 0, added.err
        assert added.json["path"] == str(root / "step_10" / "policy")
        assert cli("artifacts", "alias", f"{root}@step:10", "early").code == 0
        assert policy_of(planned("art://early", "rl/nemo_rl/dpo", "tiny")).path == added.json["path"]
        other = cli("artifacts", "alias", f"{root}@best", "best")
        assert (other.code, "is not on record by itself" in other.err) == (3, True)
        assert cli("artifacts", "taint", f"{root}@step:10", "-m", "leaked").code == 0
        assert cli("artifacts", "show", f"{root}@step:10").out.count("TAINTED") == 1
        assert cli("artifacts", "verify", f"{root}@step:10").code == 0
        assert cli("artifacts", "check", f"{root}@step:10").code == 0

    def test_a_name_that_looks_like_a_selection_keeps_its_slash(
        self, catalog: Path, make_model: Make, tmp_path: Path
    ) -> None:
        place = tmp_path / "model@latest"
        make_model("llama", "plain").path.rename(place)
        for text in (f"{place}/", str(parse_reference(f"{place}/"))):
            found = policy_of(planned(text))
            assert found.converted["source"] == f"{place}/"
        assert next(iter(planned(f"{place}/").builds))[1].inputs[0].path == str(place)
        with pytest.raises(NotFound) as told:
            planned(str(place))
        assert told.value.next == f"for what is called so: {place}/"

    @pytest.mark.parametrize("text", ["org/ckpt@latest", "org/ckpt@step:20", "org/ckpt@best:val:loss"])
    def test_a_mistyped_directory_is_no_hub_id(self, world: Any, text: str) -> None:
        with pytest.raises(NotFound, match="no directory of checkpoints"):
            planned(text, "rl/nemo_rl/dpo", "tiny")

    def test_a_metric_may_be_spelled_as_logs_do(self, world: Any, root: Path) -> None:
        found = policy_of(planned(f"{root}@best:validation/loss", "rl/nemo_rl/dpo", "tiny"))
        assert found.path == str(root / "step_20" / "policy")

    def test_a_wrong_selection_of_a_run_is_said_to_be_one(self) -> None:
        with pytest.raises(UsageError, match="newest after the @ selects no checkpoint"):
            parse_reference("run://some-run/policy@newest")


def test_an_adapter_is_merged_into_the_base_that_it_names(world: Any, cli: Callable[..., Any]) -> None:
    adapter = cli("steps", "run", "model/scratch_lora", "-c", "tiny", "--json")
    assert adapter.code == 0, adapter.err
    plan = planned(f"run://{adapter.json['run']}", "rl/nemo_rl/dpo", "tiny")
    (merge,) = (build for _, build in plan.builds if build.recipe.step == "convert/merge_lora")
    assert {i.port: i.state for i in merge.inputs} == {"base": "pinned", "adapter": "pinned"}
    assert policy_of(plan).converted["by"] == ["convert/merge_lora"]


def test_what_no_conversion_turns_into_the_input_is_named(world: Any, root_of_megatron: Path) -> None:
    plan = plan_step(Request("rl/nemo_rl/rlhf", "tiny", inputs={"reward_model": str(root_of_megatron)}))
    (found,) = (f for f in plan.findings if f.id == "input.type")
    assert "seems to be checkpoint_megatron, it takes reward_model_hf" in found.message


@pytest.fixture
def root_of_megatron(make_model: Make, tmp_path: Path) -> Path:
    """A Megatron checkpoint."""
    hf_to_megatron(make_model("llama", "source").path, tmp_path / "as_megatron")
    return tmp_path / "as_megatron"


def test_a_script_that_saves_several_leaves_the_one_that_its_manifest_selects(
    world: Any, make_model: Make, cli: Callable[..., Any]
) -> None:
    model = make_model("llama", "ready").path
    toml = """
        [step]
        id = "{id}"
        description = "Saves several."

        [[produces]]
        name = "model"
        type = "checkpoint_hf"
        config = "output"
        select = "step:2"

        [run]
        engines = ["script"]
        launch = "python"
    """
    script = f"""
import shutil
for step in (1, 2, 3):
    shutil.copytree({str(model)!r}, f"ck/step_{{step}}/policy")
"""
    world.add_step("save/several", toml, configs={"default": "output: ck"}, script=script)
    done = cli("steps", "run", "save/several", "--json")
    assert done.code == 0, done.err
    (output,) = json.loads((world.home / "runs" / done.json["run"] / "outputs.json").read_text()).values()
    assert output["path"].endswith("ck/step_2/policy")
