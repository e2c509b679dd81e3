"""Which rows of a chat are kept in view of the rows before them: duplicates, caps, the split."""

from __future__ import annotations

from nemotron.data.stream.keys import KeyCounts, share_of
from nemotron.data.stream.rows import Rejected

from .export import Placed
from .options import ExportOptions


class Keeper:
    """Sees the rows in order. In memory a prompt, an answer or an id takes 12 to 36 bytes."""

    def __init__(self, options: ExportOptions) -> None:
        self._options = options
        self._answers = KeyCounts()
        self._responses = KeyCounts()
        self._prompts = KeyCounts()

    @property
    def prompts(self) -> int:
        """How many prompts were seen, where they are counted."""
        return len(self._prompts)

    def refuses(self, made: Placed) -> Rejected | None:
        """Why a row is left out in view of those before it."""
        if made.response and self._responses.add(made.response):
            return Rejected("duplicate_id", "an earlier row has this response id")
        if made.answers:
            exact, *bands = (self._answers.add(key) > 0 for key in made.answers)
            if exact:
                return Rejected("duplicate", "an earlier row has this prompt and this answer")
            if any(bands):
                return Rejected("near_duplicate", "an earlier row has this prompt and nearly this answer")
        limit = self._options.max_per_prompt
        if limit is not None and self._prompts.add(made.prompt) >= limit:
            return Rejected("prompt_cap", f"{limit} rows of this prompt were kept before")
        return None

    def is_validation(self, made: Placed) -> bool:
        """Whether the prompt of a row was drawn for validation: all its rows are, whatever the order."""
        share = self._options.validation_share
        return share > 0 and share_of(made.prompt, self._options.split_seed) < share
