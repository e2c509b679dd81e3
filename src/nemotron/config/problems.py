"""Several user errors as one, so that all are mended in one go."""

from __future__ import annotations

from collections.abc import Sequence

from nemotron.errors import UsageError


def one_error(problems: Sequence[UsageError], headline: str) -> UsageError:
    """The only problem itself, or one error that lists them all under `N <headline>`."""
    if len(problems) == 1:
        return problems[0]
    listed = [problem.render().removeprefix("error: ").replace("\n", "\n  ") for problem in problems]
    return UsageError("\n  ".join([f"{len(problems)} {headline}", *listed]))
