"""The generative judge: cohorts, the server the agents call, and GPUs for it.

Gym's `genrm_compare` holds every rollout of a prompt until the whole cohort has arrived. A cohort size
that differs from the group size does not fail: too few wait for ever, too many get HTTP 500.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from nemotron.engines.nemo_rl.rules.gym import GYM_SECTION, config_paths
from nemotron.engines.nemo_rl.rules.rule import GYM, Problem, Rule
from nemotron.engines.nemo_rl.rules.view import View

# What Gym's own genrm_compare.yaml says: the server its agents call, and its cohort size.
COMPARE_SERVER = "genrm_compare_resources_server"
JUDGE_SERVER = "genrm_model"
_SHIPPED_COHORT = 16
_CODE_COHORT = 1
_SHIPPED_PARALLEL = {"tensor_parallel_size": 4, "pipeline_parallel_size": 1, "data_parallel_size": 2}
_AGENTS = ("genrm_simple_agent", "genrm_simple_agent_reasoning_off")
_GENERATIONS = "grpo.num_generations_per_prompt"


def cohort_size(view: View) -> Iterator[Problem]:
    """The server the agents call waits for exactly as many rollouts as a prompt gets."""
    if not uses_genrm(view):
        return
    generations = view.positive(_GENERATIONS)
    key = _compare_key(view, "num_rollouts_per_prompt")
    told = view.whole(key)
    cohort = told if told is not None else (_SHIPPED_COHORT if _is_shipped(view) else _CODE_COHORT)
    if generations and cohort != generations:
        default = (
            "" if told is not None else f" ({'genrm_compare.yaml' if _is_shipped(view) else 'its default'})"
        )
        yield Problem(
            key,
            f"the judge waits for {cohort} rollouts a prompt{default} and {generations} arrive: "
            + ("the run hangs" if generations < cohort else "the judge answers with HTTP 500"),
            str(generations),
            f"{'' if told is not None else '+'}{key}={generations}",
        )


def compare_server(view: View) -> Iterator[Problem]:
    """Settings of a compare server that no agent calls have no effect."""
    if not uses_genrm(view):
        return
    called = _called_servers(view)
    for name in view.table(GYM_SECTION):
        servers = view.table(f"{GYM_SECTION}.{name}.resources_servers")
        if "genrm_compare" in servers and name not in called:
            yield Problem(
                f"{GYM_SECTION}.{name}",
                f"the agents call {' and '.join(sorted(called))}: what is set under {name} has no effect",
                f"{GYM_SECTION}.{COMPARE_SERVER}",
                f"rename {GYM_SECTION}.{name} to {GYM_SECTION}.{COMPARE_SERVER}",
            )


def validation_repeats(view: View) -> Iterator[Problem]:
    """A validation prompt comes as often as a cohort is large: the judge waits in validation too."""
    generations = view.positive(_GENERATIONS)
    if not uses_genrm(view) or not generations:
        return
    for key, table in view.data_sets("validation"):
        repeat = table.get("repeat", 1)
        if isinstance(repeat, int) and repeat != generations:
            place = f"{key}.repeat"
            yield Problem(
                place,
                f"each validation prompt comes {repeat} time{'s' if repeat != 1 else ''}, "
                f"the judge waits for {generations}: validation hangs",
                str(generations),
                f"{'' if view.has(place) else '+'}{place}={generations}",
            )


def repeated_prompts(view: View) -> Iterator[Problem]:
    """Synchronous GRPO sends no task index: the judge takes two rows with one prompt for one cohort."""
    if not uses_genrm(view) or view.on("grpo.async_grpo.enabled"):
        return
    for key, table in view.data_sets("train"):
        repeat = table.get("repeat", 1)
        if isinstance(repeat, int) and repeat > 1:
            place = f"{key}.repeat" if view.has(f"{key}.repeat") else "data.default.repeat"
            yield Problem(
                place,
                f"training prompts are repeated {repeat} times: two of one prompt in a step give HTTP 500",
                "1, and more epochs",
                f"{place}=1",
            )


def judge_kind(view: View) -> Iterator[Problem]:
    """The judge's server is of kind genrm_model: a plain vllm_model drops the answers to compare."""
    if not uses_genrm(view):
        return
    judge = _judge(view)
    key = f"{GYM_SECTION}.{judge}.responses_api_models"
    kinds = set(view.table(key))
    if judge == JUDGE_SERVER and _is_shipped(view):
        kinds.add("genrm_model")
    if "vllm_model" in kinds and "genrm_model" in kinds:
        yield Problem(
            f"{key}.vllm_model",
            f"{judge} is served by its genrm_model implementation: "
            "what is set under vllm_model has no effect",
            f"{key}.genrm_model",
            f"move it from {key}.vllm_model to {key}.genrm_model",
        )
    elif judge == "policy_model" or (kinds and "genrm_model" not in kinds):
        found = "policy_model" if judge == "policy_model" else ", ".join(sorted(kinds))
        yield Problem(
            _compare_key(view, "genrm_model_server.name") if judge == "policy_model" else key,
            f"the judge is served by {found}, which shows it the prompt alone: every reward would be 3.0",
            f"{GYM_SECTION}.{JUDGE_SERVER}.responses_api_models.genrm_model",
            f"{_compare_key(view, 'genrm_model_server.name')}={JUDGE_SERVER}",
        )


def judge_model(view: View) -> Iterator[Problem]:
    """The judge is named once: in its server, or by genrm_model_name, or by both alike."""
    if not uses_genrm(view):
        return
    key = f"{GYM_SECTION}.{_judge(view)}.responses_api_models.genrm_model.model"
    model, name = view.get(key), view.get(f"{GYM_SECTION}.genrm_model_name")
    if not model and not name:
        yield Problem(key, "no judge model is named", "a model directory or hub id", f"{key}=...")
    elif model and name and model != name:
        yield Problem(
            f"{GYM_SECTION}.genrm_model_name",
            f"the judge is {model} in {key} and {name} in genrm_model_name",
            f"${{{key}}}",
            f"{GYM_SECTION}.genrm_model_name={model}",
        )


def judge_gpus(view: View) -> Iterator[Problem]:
    """The judge has nodes of its own, and they hold its engines; one with a `base_url` runs elsewhere."""
    server = f"{GYM_SECTION}.{_judge(view)}.responses_api_models.genrm_model"
    if not uses_genrm(view) or view.get(f"{server}.base_url"):
        return
    serve = f"{server}.vllm_serve_kwargs"
    sizes = {name: view.positive(f"{serve}.{name}") or shipped for name, shipped in _SHIPPED_PARALLEL.items()}
    needed = 1
    for size in sizes.values():
        needed *= size
    nodes, each = view.whole(f"{GYM_SECTION}.num_gpu_nodes") or 0, view.positive("cluster.gpus_per_node")
    if not each:
        return
    key = f"{GYM_SECTION}.num_gpu_nodes"
    spelled = " x ".join(f"{name.split('_')[0]} {size}" for name, size in sizes.items())
    if needed > nodes * each:
        yield Problem(
            key,
            f"the judge takes {spelled} = {needed} GPUs, its {nodes} nodes have {nodes * each}",
            f"at least {-(-needed // each)}",
            f"{'' if view.has(key) else '+'}{key}={-(-needed // each)}",
        )
    local = view.positive(f"{serve}.data_parallel_size_local")
    engine = needed // sizes["data_parallel_size"]
    if local and nodes and local * engine > each:
        yield Problem(
            f"{serve}.data_parallel_size_local",
            f"{local} engines of {engine} GPUs do not fit on a node of {each}",
            f"up to {max(1, each // engine)}",
            f"{serve}.data_parallel_size_local={max(1, each // engine)}",
        )


def uses_genrm(view: View) -> bool:
    """Whether rewards come from Gym's pairwise judge."""
    return _is_shipped(view) or any(
        "genrm_compare" in view.table(f"{GYM_SECTION}.{name}.resources_servers")
        for name in view.table(GYM_SECTION)
    )


def _is_shipped(view: View) -> bool:
    """Whether Gym's own genrm_compare.yaml is among the merged files."""
    return any("genrm_compare" in path for path in config_paths(view))


def _called_servers(view: View) -> set[str]:
    """The compare servers that agents call: as the shipped file says, or as this config overrides it."""
    called = dict.fromkeys(_AGENTS, COMPARE_SERVER) if _is_shipped(view) else {}
    for name, table in view.table(GYM_SECTION).items():
        agents = table.get("responses_api_agents") if isinstance(table, Mapping) else None
        for agent in agents.values() if isinstance(agents, Mapping) else ():
            server = agent.get("resources_server") if isinstance(agent, Mapping) else None
            if isinstance(server, Mapping) and server.get("name"):
                called[str(name)] = str(server["name"])
    return set(called.values()) or {COMPARE_SERVER}


def _compare_key(view: View, name: str) -> str:
    called = _called_servers(view)
    server = COMPARE_SERVER if COMPARE_SERVER in called else sorted(called)[0]
    return f"{GYM_SECTION}.{server}.resources_servers.genrm_compare.{name}"


def _judge(view: View) -> str:
    return view.text(_compare_key(view, "genrm_model_server.name")) or JUDGE_SERVER


RULES = (
    Rule("nemo_rl.genrm_cohort", GYM, cohort_size),
    Rule("nemo_rl.genrm_compare_server", GYM, compare_server),
    Rule("nemo_rl.genrm_validation_repeat", GYM, validation_repeats),
    Rule("nemo_rl.genrm_repeated_prompts", GYM, repeated_prompts),
    Rule("nemo_rl.genrm_judge_kind", GYM, judge_kind),
    Rule("nemo_rl.genrm_judge_model", GYM, judge_model),
    Rule("nemo_rl.genrm_judge_gpus", GYM, judge_gpus),
)
