"""Training rows out of JSONL files, in the shapes the trainers take."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nemotron.engines.embedded.reading import lookup
from nemotron.errors import CheckFailed, NotFound, UsageError

Message = dict[str, Any]


def read_rows(path: str, where: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of every non-blank line. Errors name file and line."""
    file = Path(path)
    if not file.is_file():
        raise NotFound(f"there is no file {path}", where=where)
    try:
        found = False
        with file.open(encoding="utf-8") as handle:
            for number, line in enumerate(handle, 1):
                if not line.strip():
                    continue
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise CheckFailed("a row must be a JSON object", where=f"{path}:{number}")
                found = True
                yield number, row
    except UnicodeDecodeError as problem:
        raise CheckFailed("not UTF-8 text", where=path) from problem
    except json.JSONDecodeError as problem:
        raise CheckFailed(f"not JSON: {problem.msg}", where=f"{path}:{number}") from problem
    except RecursionError as problem:
        raise CheckFailed("nested too deep", where=f"{path}:{number}") from problem
    if not found:
        raise CheckFailed("there is no row in it", where=path)


def split_keys(config: Mapping[str, Any], split: str) -> dict[str, Any]:
    """The keys of `data.train` or `data.validation`, absent ones filled from `data.default`."""
    section = lookup(config, f"data.{split}")
    if not isinstance(section, Mapping):
        raise UsageError(f"data.{split} must be a map with data_path", where=f"data.{split}")
    return {**lookup(config, "data.default", {}), **section}


def chat_rows(config: Mapping[str, Any], split: str) -> list[tuple[list[Message], list[Any] | None]]:
    """Conversations (and their tools) for SFT, from `messages` or input/output rows."""
    keys = split_keys(config, split)
    path = str(keys["data_path"])
    chat_key = keys.get("chat_key") or "messages"
    tool_key = keys.get("tool_key") or "tools"
    input_key, output_key = keys.get("input_key") or "input", keys.get("output_key") or "output"
    found = []
    for number, row in read_rows(path, f"data.{split}.data_path"):
        if chat_key in row:
            messages = _messages(row[chat_key], path, number)
        elif input_key in row and output_key in row:
            messages = [_message("user", row[input_key]), _message("assistant", row[output_key])]
        else:
            raise CheckFailed(
                f"a row has neither {chat_key!r} nor {input_key!r} and {output_key!r}",
                where=f"{path}:{number}",
            )
        system = row.get(keys["system_key"]) if keys.get("system_key") else keys.get("system_prompt")
        if system and messages[0]["role"] != "system":
            messages.insert(0, _message("system", system))
        found.append((messages, row.get(tool_key) or None))
    return found


def preference_rows(config: Mapping[str, Any], split: str) -> list[dict[str, Any]]:
    """Rows of prompt, chosen, rejected (message lists) and, where given, their scores."""
    keys = split_keys(config, split)
    path = str(keys["data_path"])
    found = []
    for number, row in read_rows(path, f"data.{split}.data_path"):
        where = f"{path}:{number}"
        if "completions" in row:
            found.append(_ranked(row, where))
            continue
        prompt = row.get(keys.get("prompt_key") or "prompt")
        chosen = row.get(keys.get("chosen_key") or "chosen")
        rejected = row.get(keys.get("rejected_key") or "rejected")
        if prompt is None or chosen is None or rejected is None:
            raise CheckFailed(
                "a row needs context and completions, or prompt, chosen and rejected", where=where
            )
        found.append(
            {
                "prompt": _turns(prompt, "user", where),
                "chosen": _turns(chosen, "assistant", where),
                "rejected": _turns(rejected, "assistant", where),
            }
        )
    return found


def prompt_rows(config: Mapping[str, Any], split: str) -> list[dict[str, Any]]:
    """Prompts for rollouts: `prompt` (messages) and, where given, `expected_answer`."""
    keys = split_keys(config, split)
    path = str(keys["data_path"])
    found = []
    for number, row in read_rows(path, f"data.{split}.data_path"):
        params = row.get("responses_create_params")
        source = (
            params.get("input") if isinstance(params, Mapping) else row.get("prompt") or row.get("messages")
        )
        source = source if source is not None else row.get("input")
        if not source:
            raise CheckFailed("a row has no prompt", where=f"{path}:{number}")
        messages = _turns(source, "user", f"{path}:{number}")
        instructions = params.get("instructions") if isinstance(params, Mapping) else None
        if instructions:
            messages.insert(0, _message("system", instructions))
        found.append(
            {
                "prompt": messages,
                "expected_answer": str(row.get("expected_answer") or ""),
                "principle": str(row.get("principle") or ""),
            }
        )
    return found


def _ranked(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    completions = row["completions"]
    if not isinstance(completions, list) or len(completions) != 2:
        raise CheckFailed("a row needs exactly two completions", where=where)
    for each in completions:
        if not isinstance(each, Mapping) or "completion" not in each:
            raise CheckFailed("each of completions needs rank and completion", where=where)
        for name in ("rank", "score"):
            if not isinstance(each.get(name, 0), int | float):
                raise CheckFailed(f"{name} is {each[name]!r}, no number", where=where)
    first, second = sorted(completions, key=lambda c: c.get("rank", 0))
    if first.get("rank") == second.get("rank"):
        raise CheckFailed("two completions have the same rank", where=where)
    made: dict[str, Any] = {
        "prompt": _turns(row.get("context"), "user", where),
        "chosen": _turns(first["completion"], "assistant", where),
        "rejected": _turns(second["completion"], "assistant", where),
    }
    if "score" in first and "score" in second:
        made["scores"] = (int(first["score"]), int(second["score"]))
    return made


def _turns(value: Any, role: str, where: str) -> list[Message]:
    """Messages from a text or from a list of messages; anything else is refused."""
    if isinstance(value, str):
        return [_message(role, value)]
    if not isinstance(value, list) or not value:
        raise CheckFailed(f"the {role}'s part must be a text or a non-empty list of messages", where=where)
    if not all(isinstance(m, Mapping) and isinstance(m.get("role"), str) for m in value):
        raise CheckFailed(f"the {role}'s part has an item that is no message with a role", where=where)
    return [_message(m["role"], _text(m.get("content"))) for m in value]


def _text(content: Any) -> str:
    """Message content as text; the parts of a list are joined."""
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return "" if content is None else str(content)


def _messages(value: Any, path: str, number: int) -> list[Message]:
    if (
        not isinstance(value, list)
        or not value
        or not all(isinstance(m, Mapping) and "role" in m for m in value)
    ):
        raise CheckFailed(
            "messages must be a non-empty list of objects with a role", where=f"{path}:{number}"
        )
    return [dict(m) for m in value]


def _message(role: str, content: Any) -> Message:
    return {"role": role, "content": content}
