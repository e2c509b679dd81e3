"""A site's own sbatch script: `{{name}}` in it is replaced, everything else stays as it is.

{{header}}        our #SBATCH lines, on a line of their own before the first command; may be left out
{{setup}}         the profile's setup_lines, on a line of their own; may be left out
{{body}}          the job from its first to its last command, on a line of its own; required
{{run_dir}}       the directory of the run, {{run_id}} its name: words that the shell fills in
{{nodes}} {{gpus_per_node}} {{image}}     of the plan, quoted
"""

from __future__ import annotations

import re
from pathlib import Path

from nemotron.errors import UsageError, nearest
from nemotron.launch.slurm.image_word import image_word
from nemotron.planning.plan import Placement

_FIELD = re.compile(r"\{\{\s*([^{}]*?)\s*\}\}")
_WHOLE_LINES = ("header", "setup", "body")


def filled_template(file: str, placement: Placement, header: str, setup: str, body: str) -> str:
    """The script that a site's template makes. Raises UsageError for a file that is no such template."""
    try:
        text = Path(file).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise UsageError(f"cannot read the template: {problem}", where=file) from problem
    values = {
        "header": header,
        "setup": setup.rstrip("\n"),
        "body": body.rstrip("\n"),
        "run_dir": '"$SLURM_SUBMIT_DIR"',
        "run_id": '"$SLURM_JOB_NAME"',
        "nodes": str(placement.nodes),
        "gpus_per_node": str(placement.gpus_per_node),
        "image": image_word(placement),
    }
    for number, line in enumerate(text.splitlines(), 1):
        _check_line(line, f"{file}:{number}", tuple(values))
    bodies = len(re.findall(r"\{\{\s*body\s*\}\}", text))
    if bodies != 1:
        raise UsageError(
            f"a template holds {{{{body}}}} once, this one {bodies} times",
            where=file,
            next="put {{body}} on a line of its own, after everything that has to come first",
        )
    return _FIELD.sub(lambda found: values[found[1]], text)


def _check_line(line: str, where: str, known: tuple[str, ...]) -> None:
    for found in _FIELD.finditer(line):
        name = found[1]
        if name not in known:
            raise UsageError(
                f"{{{{{name}}}}} is nothing that a template can hold",
                where=where,
                nearest=nearest(name, known),
                valid=known,
            )
        if name in _WHOLE_LINES and line.strip() != found[0]:
            raise UsageError(f"{{{{{name}}}}} needs a line of its own", where=where)
