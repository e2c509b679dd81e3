"""Lineages to look at: the RLHF chain with all that goes wrong in one, hostile names, and a big graph."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from nemotron.artifacts.lineage import ArtifactNode, Edge, Lineage, RunNode

STORE = "/data/team/nemotron/runs"


def digest(name: str) -> str:
    """A digest that is the same for the same name."""
    return "blake3:" + hashlib.sha256(name.encode()).hexdigest()


def made(run: str, **ports: str) -> list[Edge]:
    """What a run made, by port."""
    return [Edge(digest(each), run, "output", port) for port, each in ports.items()]


def took(run: str, **ports: str) -> list[Edge]:
    """What a run took, by port."""
    return [Edge(digest(each), run, "input", port) for port, each in ports.items()]


def lineage_of(
    focus: str,
    artifacts: Iterable[ArtifactNode],
    runs: Iterable[RunNode],
    edges: Iterable[Edge],
    cut: Iterable[str] = (),
) -> Lineage:
    """A lineage whose focus is an id."""
    return Lineage(focus, {a.id: a for a in artifacts}, {r.id: r for r in runs}, tuple(edges), tuple(cut))


_MODEL_FACTS: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "chat_template": True,
    "chat_template_digest": "sha256:019c64426a9595a27ce0fe5794a361de6090f2c2fa80f64a7e3ef00985311b99",
    "dtypes": {"F32": 740160},
    "errors": 0,
    "model_type": "qwen3",
    "parameters": 740160,
    "special_tokens": {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
    "tokenizer_digest": "sha256:85f835f33105e3ce19870a127317699ba94f7b95906d7d5e5927ec96f52cc1e3",
    "vocab_size": 780,
}

DATA = "data_prep-scratch-20261121-111912-5f86"
BASE = "model-scratch-20261121-111912-33af"
SFT = "sft-nemo_rl-20261121-111917-a9c6"
JUDGE = "rm-nemo_rl-20261121-112003-2b23"
RLHF = "rl-rlhf-20261121-112134-99d5"
BROKEN = "rl-rlhf-20261121-112051-1f5f"
DPO = "rl-dpo-20261121-113004-7005"
EVAL = "eval-arithmetic-20261121-114512-0c1e"
CHAT = "eval-arithmetic-20261121-114733-b2d0"


def _artifact(name: str, type_: str, path: str, at: str, size: int, **more: Any) -> ArtifactNode:
    facts = _MODEL_FACTS if type_.endswith("_hf") else {"rows": 4000, "errors": 0, "shape": "messages"}
    return ArtifactNode(digest(name), type_, at, size, (f"{STORE}/{path}",), **{"facts": facts, **more})


def _run(
    run: str, step_id: str, began: str, ended: str | None, state: str = "succeeded", /, **metrics: Any
) -> RunNode:
    engine = "embedded" if step_id.startswith(("rl/", "sft/", "rm/")) else "script"
    directory = f"{STORE}/{run}"
    return RunNode(run, step_id, engine, state, began, ended, "mara", "dgx-07", directory, metrics)


def rlhf_chain(focus: str = "policy") -> Lineage:
    """Scratch data and model, SFT, judge, RLHF, DPO, evaluation: one file tainted, one run failed.

    Its artifacts: chat, preferences, preferences_held_out, prompts, prompts_held_out, base, sft, judge,
    policy, dpo, scores, dpo_scores.
    """
    day = "2026-11-21T"
    artifacts = [
        _artifact("chat", "training_jsonl", f"{DATA}/data/chat.jsonl", f"{day}11:19:12.752Z", 645324),
        _artifact(
            "preferences",
            "preference_jsonl",
            f"{DATA}/data/preferences.jsonl",
            f"{day}11:19:12.770Z",
            488120,
            tainted="a third of the rejected answers are the chosen ones of other prompts",
        ),
        _artifact(
            "preferences_held_out",
            "preference_jsonl",
            f"{DATA}/data/preferences_held_out.jsonl",
            f"{day}11:19:12.781Z",
            60922,
        ),
        _artifact("prompts", "prompt_jsonl", f"{DATA}/data/prompts.jsonl", f"{day}11:19:12.790Z", 98304),
        _artifact(
            "prompts_held_out",
            "prompt_jsonl",
            f"{DATA}/data/prompts_held_out.jsonl",
            f"{day}11:19:12.799Z",
            12288,
        ),
        _artifact("base", "checkpoint_hf", f"{BASE}/model", f"{day}11:19:17.177Z", 2998272),
        _artifact(
            "sft",
            "checkpoint_hf",
            f"{SFT}/checkpoints/step_500/policy",
            f"{day}11:20:02.114Z",
            2998272,
            names=("tiny-sft:v1", "tiny-sft:prod"),
        ),
        _artifact(
            "judge", "reward_model_hf", f"{JUDGE}/checkpoints/step_180/policy", f"{day}11:20:51.020Z", 2998290
        ),
        _artifact(
            "policy",
            "checkpoint_hf",
            f"{RLHF}/checkpoints/step_30/policy",
            f"{day}11:22:14.815Z",
            2998301,
            names=("helpful:v2", "helpful:candidate"),
        ),
        _artifact(
            "dpo",
            "checkpoint_hf",
            f"{DPO}/checkpoints/step_100/policy",
            f"{day}11:31:59.493Z",
            2998272,
            names=("helpful-dpo:v1",),
        ),
        _artifact("scores", "eval_results", f"{EVAL}/results.json", f"{day}11:46:03.100Z", 2231),
        _artifact("dpo_scores", "eval_results", f"{CHAT}/results.json", f"{day}11:48:20.000Z", 2218),
    ]
    runs = [
        _run(DATA, "data_prep/scratch", f"{day}11:19:12.100Z", f"{day}11:19:12.900Z"),
        _run(BASE, "model/scratch", f"{day}11:19:12.950Z", f"{day}11:19:17.200Z"),
        _run(
            SFT,
            "sft/nemo_rl",
            f"{day}11:19:17.300Z",
            f"{day}11:20:02.900Z",
            **{"train/loss": 0.0312, "validation/token_accuracy": 0.981, "step": 500},
        ),
        _run(
            JUDGE,
            "rm/nemo_rl",
            f"{day}11:20:03.300Z",
            f"{day}11:20:51.900Z",
            **{"validation/accuracy": 0.9375, "train/loss": 0.11, "step": 180},
        ),
        _run(
            BROKEN,
            "rl/nemo_rl/rlhf",
            f"{day}11:20:51.900Z",
            f"{day}11:21:33.643Z",
            "failed",
            **{"train/reward": float("nan"), "train/kl": 88.1, "step": 12},
        ),
        _run(
            RLHF,
            "rl/nemo_rl/rlhf",
            f"{day}11:21:34.000Z",
            f"{day}11:22:14.900Z",
            **{
                "train/reward": 4.953125,
                "train/kl": 0.1505444347858429,
                "validation/accuracy": 1.0,
                "validation/warmth": 0.96875,
                "judge/tie_rate": 0.96875,
                "step": 30,
            },
        ),
        _run(
            DPO,
            "rl/nemo_rl/dpo",
            f"{day}11:30:04.000Z",
            f"{day}11:31:59.600Z",
            **{"validation/accuracy": 1.0, "validation/margin": 6.874, "step": 100},
        ),
        _run(EVAL, "eval/arithmetic", f"{day}11:45:12.000Z", f"{day}11:46:03.200Z", **{"accuracy": 0.971}),
        _run(CHAT, "eval/arithmetic", f"{day}11:47:33.000Z", f"{day}11:48:20.100Z", **{"accuracy": 0.934}),
    ]
    data = ("chat", "preferences", "preferences_held_out", "prompts", "prompts_held_out")
    edges = [
        *made(DATA, **{name: name for name in data}),
        *made(BASE, model="base"),
        *took(SFT, policy="base", data="chat"),
        *made(SFT, model="sft"),
        *took(JUDGE, policy="sft", data="preferences", validation="preferences_held_out"),
        *made(JUDGE, reward_model="judge"),
        *took(BROKEN, policy="sft", reward_model="judge", prompts="prompts", validation="prompts_held_out"),
        *took(RLHF, policy="sft", reward_model="judge", prompts="prompts", validation="prompts_held_out"),
        *made(RLHF, policy="policy"),
        *took(DPO, policy="sft", data="preferences", validation="preferences_held_out"),
        *made(DPO, policy="dpo"),
        *took(EVAL, model="policy", prompts="prompts_held_out"),
        *made(EVAL, results="scores"),
        *took(CHAT, model="dpo", prompts="prompts_held_out"),
        *made(CHAT, results="dpo_scores"),
    ]
    return lineage_of(digest(focus), artifacts, runs, edges)


def sweep(nodes: int = 200) -> Lineage:
    """About `nodes` nodes: one base and its data, many fine-tunes of it, judges, policies and scores."""
    artifacts = [
        ArtifactNode(digest(name), "training_jsonl", paths=(f"/data/{name}.jsonl",)) for name in "abcd"
    ]
    artifacts.append(ArtifactNode(digest("base"), "checkpoint_hf", names=("base:v1",)))
    runs: list[RunNode] = []
    edges: list[Edge] = []
    number = 0
    while len(artifacts) + len(runs) + 8 <= nodes:
        sft, rlhf, judge, scores = (f"{kind}-{number:03}" for kind in ("sft", "rlhf", "judge", "eval"))
        runs += [RunNode(run, step=f"{run[:-4]}/nemo_rl", state="succeeded") for run in (sft, rlhf, scores)]
        artifacts += [ArtifactNode(digest(f"m-{run}"), "checkpoint_hf") for run in (sft, rlhf)]
        artifacts.append(ArtifactNode(digest(f"m-{scores}"), "eval_results"))
        edges += took(sft, policy="base", data="abcd"[number % 4]) + made(sft, model=f"m-{sft}")
        judged = f"m-{judge}" if number % 3 == 0 else f"m-judge-{number // 3 * 3:03}"
        if number % 3 == 0:
            runs.append(RunNode(judge, step="rm/nemo_rl", state="failed" if number % 9 == 3 else "succeeded"))
            artifacts.append(ArtifactNode(digest(judged), "reward_model_hf"))
            edges += took(judge, policy=f"m-{sft}", data="d") + made(judge, reward_model=f"m-{judge}")
        edges += took(rlhf, policy=f"m-{sft}", reward_model=judged, prompts="c") + made(
            rlhf, policy=f"m-{rlhf}"
        )
        edges += took(scores, model=f"m-{rlhf}") + made(scores, results=f"m-{scores}")
        number += 1
    return lineage_of(digest("base"), artifacts, runs, edges)


HOSTILE = (
    "</script><script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    '"]; end\n%%{init: {"securityLevel": "loose"}}%%\nsubgraph x["',
    "javascript:alert(1)",
    "\x1b[2J\x1b]0;owned\x07",
    "\u202egpj.exe\u2066\u200b",
    "{{script}} ${1+1} <!-- __proto__",
    "line\r\nbreak\u2028and\u2029more\x00",
    "x" * 4096,
    "\u6f22\u5b57" * 700,
    "\ud800",
    "#quot; &lt;b&gt; &amp; `code` end",
    "style x:#fff; classDef y:#000;",
)


def hostile() -> Lineage:
    """A run and two artifacts for each hostile string, used wherever a string can be."""
    artifacts, runs, edges = [], [], []
    for number, bad in enumerate(HOSTILE):
        source = ArtifactNode(
            f"ref:{number}{bad}",
            bad,
            bad,
            2**70,
            (bad, f"/tmp/{bad}"),
            (bad, f"name:{bad}"),
            bad,
            {bad: bad, "deep": [{bad: [bad, float("inf")]}], "__proto__": {"x": 1}},
        )
        result = ArtifactNode(f"blake3:{number}{bad}", bad)
        run = RunNode(
            f"{number}{bad}", bad, bad, bad, bad, bad, bad, bad, bad, {bad: float("nan"), "loss": 0.5}
        )
        artifacts += [source, result]
        runs.append(run)
        edges += [Edge(source.id, run.id, "input", bad), Edge(result.id, run.id, "output", bad)]
        if number:
            edges.append(Edge(artifacts[1].id, run.id, "input", f"{bad} too"))
    return lineage_of(artifacts[1].id, artifacts, runs, edges, cut=[artifacts[0].id])
