"""Rollouts of the tiny chat world, as NeMo-Gym writes them: several answers to each question, judged by rule.

Made without a model. Some agents ask a tool first, some answers are cut off or never come: what real files
hold is in them, so that a chain can be tried with them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

from nemotron.data.tiny_chat import MANNERS, Question, answer_in, questions, warmth

_TOOL = {
    "type": "function",
    "name": "look_up",
    "description": "Looks a question up in a book.",
    "parameters": {
        "type": "object",
        "properties": {"question": {"type": "string"}},
        "required": ["question"],
    },
    "strict": True,
}


def rollout_rows(prompts: int, each: int, seed: int) -> Iterator[dict[str, Any]]:
    """`each` rollouts of each of the first `prompts` training questions; a warm answer has the reward 1."""
    rng = random.Random(seed)
    asked = [question for question in questions() if not question.held_out][:prompts]
    for task, question in enumerate(asked):
        for number in range(each):
            yield _row(question, task, number, rng)


def _row(question: Question, task: int, number: int, rng: random.Random) -> dict[str, Any]:
    text = answer_in(rng.choice(sorted(MANNERS)), question.answer, rng)
    name = f"{task}_{number}"
    output: list[dict[str, Any]] = []
    with_tool = task % 2 == 1
    if with_tool:
        output += _looked_up(question, name)
    cut = rng.random() < 0.05
    if not cut:
        part = {"type": "output_text", "text": text, "annotations": []}
        output.append({"id": f"msg_{name}", "type": "message", "role": "assistant", "content": [part]})
    return {
        "responses_create_params": {
            "input": [{"role": "user", "content": question.text}],
            "tools": [_TOOL] if with_tool else [],
        },
        "response": {
            "id": f"resp_{name}",
            "object": "response",
            "status": "incomplete" if cut else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": output,
        },
        "reward": 0.0 if cut else warmth(text),
        "agent_ref": {"type": "responses_api_agents", "name": "genrm_simple_agent"},
        "expected_answer": question.answer,
        "_ng_task_index": task,
        "_ng_rollout_index": number,
    }


def _looked_up(question: Question, name: str) -> list[dict[str, Any]]:
    """A thought, a call and its result."""
    arguments = json.dumps({"question": question.text})
    return [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "The book knows."}]},
        {"type": "function_call", "call_id": f"call_{name}", "name": "look_up", "arguments": arguments},
        {"type": "function_call_output", "call_id": f"call_{name}", "output": question.answer},
    ]
