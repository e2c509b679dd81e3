"""NeMo-Gym environments: what the rollout servers need, and how many nodes the job takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from nemotron.engines.nemo_rl.rules.rule import EVERY, GRPO, GYM, Problem, Rule
from nemotron.engines.nemo_rl.rules.view import View

GYM_SECTION = "env.nemo_gym"
_VLLM = "policy.generation.vllm_cfg"
_SERVER_KINDS = ("responses_api_models", "responses_api_agents", "resources_servers")
_POLICY_FILE = "vllm_model_for_training.yaml"

# Servers that Gym's own files define; a config with other files may have servers we cannot see.
_SHIPPED = {
    _POLICY_FILE: ("policy_model", "policy_model_reasoning_off"),
    "genrm_model.yaml": ("genrm_model",),
    "genrm_compare.yaml": (
        "genrm_model", "genrm_compare_resources_server",
        "genrm_simple_agent", "genrm_simple_agent_reasoning_off",
    ),
}  # fmt: skip


def serves_the_policy(view: View) -> Iterator[Problem]:
    """Gym calls the policy over HTTP, which only vLLM's async engine serves."""
    for name in ("async_engine", "expose_http_server"):
        key = f"{_VLLM}.{name}"
        if not view.on(key):
            yield Problem(key, f"Gym needs {name} to call the policy", "true", f"{_set(view, key)}=true")
    for name in ("stop_strings", "stop_token_ids"):
        key = f"policy.generation.{name}"
        if view.get(key):
            yield Problem(
                key,
                f"{name} are dropped: Gym's requests carry none",
                "null",
                f"{key}=null",
                severity="warning",
            )
    key = f"{_VLLM}.skip_tokenizer_init"
    if view.on("policy.is_vlm") and view.on(key):
        yield Problem(key, "a vision model needs the tokenizer in vLLM", "false", f"{key}=false")


def gym_is_switched_on(view: View) -> Iterator[Problem]:
    """A Gym section alone does nothing: the switch selects the script."""
    key = "env.should_use_nemo_gym"
    if view.table(GYM_SECTION) and not view.on(key):
        yield Problem(
            key, "env.nemo_gym is configured and not switched on", "true", f"{_set(view, key)}=true"
        )


def policy_server(view: View) -> Iterator[Problem]:
    """Rollouts with token ids come from the model server made for training."""
    paths = config_paths(view)
    if not any(_file(path) == _POLICY_FILE for path in paths) and not view.table(
        f"{GYM_SECTION}.policy_model"
    ):
        yield Problem(
            f"{GYM_SECTION}.config_paths",
            "no server policy_model is configured: agents would have no policy to call",
            "responses_api_models/vllm_model/configs/vllm_model_for_training.yaml among the paths",
            "add it to env.nemo_gym.config_paths",
        )


def server_references(view: View) -> Iterator[Problem]:
    """A server that this config refers to exists, if its files are all ones we know."""
    shipped = _shipped_servers(view)
    if shipped is None:
        return
    servers = shipped | {name for name, _, _ in _servers(view)}
    for name, key, table in _servers(view):
        for reference, target in _references(table):
            if target not in servers:
                yield Problem(
                    f"{key}.{reference}.name",
                    f"{name} refers to the server {target}, which is not configured",
                    ", ".join(sorted(servers)),
                )


def server_entrypoints(view: View) -> Iterator[Problem]:
    """A server that only this config defines says which program it is; Gym's own check misses that."""
    shipped = _shipped_servers(view)
    for name, key, table in _servers(view) if shipped is not None else ():
        if name not in (shipped or ()) and not table.get("entrypoint"):
            yield Problem(
                f"{key}.entrypoint",
                f"the server {name} has no entrypoint",
                "app.py, or the name of a shipped server",
                f"+{key}.entrypoint=app.py",
            )


def node_count(view: View) -> Iterator[Problem]:
    """The allocation holds the cluster, the judge's nodes and a dedicated Ray head."""
    cluster = view.positive("cluster.num_nodes")
    if view.nodes is None or not cluster:
        return
    judge = (view.whole(f"{GYM_SECTION}.num_gpu_nodes") or 0) if view.entry_point in GYM else 0
    head = 1 if (view.environ or {}).get("DEDICATED_RAY_HEAD") == "1" else 0
    wanted = cluster + judge + head
    if view.nodes != wanted:
        parts = [f"cluster.num_nodes {cluster}"]
        parts += [f"env.nemo_gym.num_gpu_nodes {judge}"] if judge else []
        parts += ["a dedicated Ray head"] if head else []
        yield Problem(
            "cluster.num_nodes",
            f"the allocation has {view.nodes} nodes, the config needs {wanted} ({' + '.join(parts)})",
            str(wanted),
            f"cluster.num_nodes={view.nodes - judge - head}"
            if view.nodes > judge + head
            else f"run.nodes={wanted}",
        )


def gpus_per_node(view: View) -> Iterator[Problem]:
    """The scheduler's GPUs a node are the cluster's."""
    told, here = (view.environ or {}).get("GPUS_PER_NODE"), view.positive("cluster.gpus_per_node")
    if told and told.isdigit() and here and int(told) != here:
        yield Problem(
            "cluster.gpus_per_node",
            f"GPUS_PER_NODE is {told}, cluster.gpus_per_node {here}",
            told,
            f"cluster.gpus_per_node={told}",
        )


def config_paths(view: View) -> list[str]:
    """The Gym config files the job merges."""
    paths = view.get(f"{GYM_SECTION}.config_paths")
    return [str(p) for p in paths] if isinstance(paths, list) else []


def _file(path: str) -> str:
    return path.rpartition("/")[2]


def _shipped_servers(view: View) -> set[str] | None:
    """The servers that the merged files define; None when a file is not one we know."""
    files = [_file(path) for path in config_paths(view)]
    if any(name not in _SHIPPED for name in files):
        return None
    return {server for name in files for server in _SHIPPED[name]}


def _servers(view: View) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """(server, dotted key, settings) of each implementation this config writes."""
    for name, kinds in view.table(GYM_SECTION).items():
        for kind in _SERVER_KINDS:
            implementations = kinds.get(kind) if isinstance(kinds, Mapping) else None
            for implementation, table in (
                implementations.items() if isinstance(implementations, Mapping) else ()
            ):
                if isinstance(table, Mapping):
                    yield str(name), f"{GYM_SECTION}.{name}.{kind}.{implementation}", table


def _references(table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(key, server name) of the references in a server's settings."""
    for key, value in table.items():
        if str(key).endswith("_server") and isinstance(value, Mapping) and isinstance(value.get("name"), str):
            yield str(key), value["name"]


def _set(view: View, key: str) -> str:
    return key if view.has(key) else f"+{key}"


RULES = (
    Rule("nemo_rl.gym_http", GYM, serves_the_policy),
    Rule("nemo_rl.gym_switch", GRPO, gym_is_switched_on),
    Rule("nemo_rl.gym_policy_server", GYM, policy_server),
    Rule("nemo_rl.gym_references", GYM, server_references),
    Rule("nemo_rl.gym_entrypoint", GYM, server_entrypoints),
    Rule("nemo_rl.node_count", EVERY, node_count),
    Rule("nemo_rl.gpus_per_node", EVERY, gpus_per_node),
)
