"""The one place where text becomes shell words."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from nemotron.errors import UsageError


def shell_words(words: Sequence[str]) -> str:
    """`words` as one shell command line in which each stays one literal word.

    Raises UsageError for a NUL, which no argument can hold.
    """
    for word in words:
        if "\0" in word:
            raise UsageError("an argument cannot hold a NUL character", where=repr(word))
    return " ".join(shlex.quote(word) for word in words)


def shown_command(words: Sequence[str]) -> str:
    """A command as a person would type it; `{run_dir}` stays readable."""
    return " ".join(word if "{run_dir}" in word and " " not in word else shlex.quote(word) for word in words)
