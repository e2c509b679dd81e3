"""`nemotron`: parses, calls the library, prints. Only the noun that is asked for is imported."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import sys

import typer
from typer.exceptions import TyperException

from nemotron.errors import EXIT_INTERRUPTED, NemotronError, UsageError

NOUNS = {
    "steps": "List, show, check and run steps.",
    "runs": "List and show runs and their logs.",
    "artifacts": "List, check, add, name and verify artifacts; show their lineage.",
    "profiles": "List, show and check profiles: where steps can run.",
    "doctor": "Say what is installed, reachable and missing here.",
}
# Commands of their own, with no verb after them.
ALONE = ("doctor",)
EXIT_USAGE = 2
EXIT_PIPE_CLOSED = 141


def command_line(argv: list[str]) -> int:
    """Run one command line; returns one of the exit codes that docs/cli.md lists."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A path need not be UTF-8; as an escape it can be printed, and is right in JSON too.
            stream.reconfigure(errors="backslashreplace")
    words, arguments = split_arguments(argv)
    return run(words, arguments)


def split_arguments(words: list[str]) -> tuple[list[str], tuple[str, ...] | None]:
    """What is for us, and what follows the first `--` (None without one) and is for the trainer.

    Split before parsing: click drops the `--` and cannot tell the two apart afterwards.
    """
    if "--" not in words:
        return words, None
    at = words.index("--")
    return words[:at], tuple(words[at + 1 :])


def run(words: list[str], arguments: tuple[str, ...] | None) -> int:
    """Run one command; returns its exit code."""
    try:
        return _run(words, arguments)
    except BrokenPipeError:
        return _end_unread()
    except SystemExit as left:
        # typer makes exit code 1 of it when the pipe breaks within a command.
        if isinstance(left.__context__, BrokenPipeError):
            return _end_unread()
        raise


def _end_unread() -> int:
    """Whoever read our output has gone (`| head`)."""
    _write_to_nobody(1, 2)
    return EXIT_PIPE_CLOSED


def _write_to_nobody(*descriptors: int) -> None:
    """Python would complain once more at exit, of what it could not write."""
    nobody = os.open(os.devnull, os.O_WRONLY)
    for descriptor in descriptors:
        os.dup2(nobody, descriptor)


def _run(words: list[str], arguments: tuple[str, ...] | None) -> int:
    as_json = "--json" in words
    incomplete = not words or (len(words) == 1 and words[0] in NOUNS and words[0] not in ALONE)
    try:
        if arguments is not None and words[:2] != ["steps", "run"]:
            raise UsageError("only `steps run` takes arguments after --", next="leave out what follows --")
        command = typer.main.get_command(build_app(words[0] if words else ""))
        asked = [*words, "--help"] if incomplete else words
        result = command.main(args=asked, prog_name="nemotron", standalone_mode=False, obj=arguments)
        sys.stdout.flush()
        return EXIT_USAGE if incomplete else result if isinstance(result, int) else 0
    except NemotronError as problem:
        return _report(problem, as_json)
    except typer.Exit as exit_:
        return int(exit_.exit_code)
    except TyperException as problem:
        context = getattr(problem, "ctx", None)
        next_ = f"{context.command_path} --help" if context else "nemotron --help"
        said = getattr(problem, "format_message", problem.__str__)()
        return _report(UsageError(said.rstrip("."), next=next_), as_json)
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        raise
    except OSError as problem:
        # What no room translated: the disk behind stdout is full, say.
        from nemotron.artifacts.atomic import os_error

        return _report(os_error(problem, problem.filename or "stdout"), as_json)


def build_app(noun: str) -> typer.Typer:
    """The command line with the commands of `noun`; for another word, with those of every noun."""
    app = typer.Typer(
        help="Post-training steps with typed artifacts between them.\n\nExample: nemotron steps list",
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    app.callback(invoke_without_command=True)(_root)
    for name in (noun,) if noun in NOUNS else NOUNS:
        module = importlib.import_module(f"nemotron.cli.{name}")
        if name in ALONE:
            app.command(name)(getattr(module, name))
            continue
        app.add_typer(module.app, name=name, help=f"{NOUNS[name]}\n\nExample: nemotron {name} list")
    return app


def _root(version: bool = typer.Option(False, "--version", help="Print the version.")) -> None:
    if version:
        from nemotron import __version__

        print(__version__)
        raise typer.Exit


def _report(problem: NemotronError, as_json: bool) -> int:
    if as_json:
        with contextlib.suppress(OSError):  # stdout itself may be the problem; stderr tells it then
            try:
                print(json.dumps({"error": problem.as_dict()}, ensure_ascii=False), flush=True)
            except BrokenPipeError:
                _write_to_nobody(1)
    print(problem.render(), file=sys.stderr)
    return problem.exit_code
