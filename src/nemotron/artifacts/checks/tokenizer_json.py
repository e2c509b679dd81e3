"""A `tokenizer.json` of any size that is in use, read member by member and known by a digest.

A quarter of a million tokens and half a million merges are 35 MB of text and 400 MB as one parsed value;
here one member at a time is held beside the text.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from json.decoder import JSONDecodeError
from pathlib import Path
from typing import Any

from .bounds import text_width, too_costly
from .files import JsonReader, blanks_end, not_text, read_bytes, unparsed
from .report import Problem, shown

LIMIT = 48 << 20
# What can be held of a vocabulary; the largest in use have 262,144 tokens.
_MAX_TOKENS = 600_000
_MAX_MERGES = 2_000_000
_HEAD = 4096
# The value of a member is looked for in a piece of the text, then in a longer one.
_PIECES = (1 << 8, 1 << 16, 1 << 20, 4 << 20)
_PIECE_BUDGET = 80 << 20
_BATCH, _BATCH_TEXT = 4096, 1 << 20
_BOM = b"\xef\xbb\xbf"
_MARK = re.compile(r"[ \t\r\n]*([,:\]}])[ \t\r\n]*")
# Settings of the last use, not of the tokenizer: they differ after every training run.
_TRANSIENT = ("truncation", "padding")
_WIDE_ESCAPE = re.compile(rb"\\u(?!00[0-7])")


@dataclass(frozen=True)
class TokenizerJson:
    """digest: SHA-256 over the canonical JSON without the settings of the last use, without options of the
    model that are null or false, and with merges in one notation: the same digest turns every text into the
    same ids. size: one more than the highest token id.
    """

    digest: str
    size: int


def read_tokenizer_json(path: Path) -> TokenizerJson | Problem:
    """The tokenizer in the file at `path`, or the first thing that is wrong with it."""
    data = read_bytes(path, limit=LIMIT)
    if isinstance(data, Problem):
        return data
    problem = not_text(data[:_HEAD]) or _not_utf8(data)
    if problem:
        return problem
    # As Latin-1 a byte is a character: one emoji does not make four bytes of each. JSON's own characters
    # are ASCII, so the structure is the same, and so is the order of the keys; the bytes come back at the
    # end. It needs that non-ASCII characters are written in one way only, as bytes or as escapes.
    encoding = "utf-8"
    data = data.removeprefix(_BOM)
    if not data.isascii() and not _has_wide_escape(data):
        encoding = "latin-1"
    elif len(data) * text_width(data) > LIMIT:
        return Problem("data.too_costly", "non-ASCII characters both as they are and as escapes, not read")
    text = data.decode(encoding)
    del data
    walk = _Walk(text, encoding)
    try:
        return walk.tokenizer()
    except _RefusedError as refused:
        return refused.problem
    except (RecursionError, ValueError) as exc:
        return unparsed(exc)


class _RefusedError(Exception):
    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class _Walk:
    """Goes through the text of one tokenizer once, from front to back."""

    def __init__(self, text: str, encoding: str) -> None:
        self._text = text
        self._encoding = encoding
        self._json = JsonReader()
        self._highest = -1
        self._held = 0

    def tokenizer(self) -> TokenizerJson | Problem:
        start = blanks_end(self._text, 0)
        if start == len(self._text):
            return Problem("artifact.empty", "an empty file")
        if self._text[start] != "{":
            self._value(start)
            return Problem("data.not_an_object", "not a JSON object")
        top, end = self._object(start, self._top_member)
        if blanks_end(self._text, end) != len(self._text):
            raise JSONDecodeError("something follows the value", self._text, end)
        if "model" not in top:
            return Problem("checkpoint.broken_tokenizer", "tokenizer.json has no model")
        for key in _TRANSIENT:
            top.pop(key, None)
        model = top["model"]
        assert isinstance(model, dict), model
        # Options that a later library added and writes as unset: without them the file means the same.
        top["model"] = {key: value for key, value in model.items() if value not in (b"null", b"false")}
        hasher = hashlib.sha256()
        self._feed(hasher.update, top)
        return TokenizerJson(f"sha256:{hasher.hexdigest()}", self._highest + 1)

    def _top_member(self, key: str, at: int) -> tuple[bytes | dict[str, Any], int]:
        if key == "model":
            if self._text[at : at + 1] != "{":
                raise _RefusedError(Problem("checkpoint.broken_tokenizer", "tokenizer.json has no model"))
            return self._object(at, self._model_member)
        value, end = self._value(at)
        if key == "added_tokens" and isinstance(value, list):
            for token in value:
                if isinstance(token, dict):
                    self._saw(token.get("id"))
        return self._bytes(_without_new_defaults(value)), end

    def _model_member(self, key: str, at: int) -> tuple[bytes, int]:
        opening = self._text[at : at + 1]
        if key == "vocab" and opening == "{":
            vocabulary, end = self._object(at, self._token, _MAX_TOKENS)
            return self._bytes(vocabulary), end
        if key == "vocab" and opening == "[":
            count, held, end = self._list(at, lambda value: value)
            self._saw(count - 1)
            return held, end
        if key == "merges" and opening == "[":
            _, held, end = self._list(at, _split)
            return held, end
        value, end = self._value(at)
        return self._bytes(value), end

    def _token(self, _key: str, at: int) -> tuple[Any, int]:
        value, end = self._value(at)
        if type(value) is not int:
            raise _RefusedError(Problem("checkpoint.broken_tokenizer", "a token's id is not a whole number"))
        self._saw(value)
        return value, end

    def _saw(self, token_id: object) -> None:
        if type(token_id) is int:
            self._highest = max(self._highest, token_id)

    def _object(
        self, at: int, take: Callable[[str, int], tuple[Any, int]], limit: int = 1000
    ) -> tuple[dict[str, Any], int]:
        """What `take` makes of each member of the object that begins at `at`, and where the object ends."""
        text, members = self._text, dict[str, Any]()
        at = blanks_end(text, at + 1)
        if text[at : at + 1] == "}":
            return members, at + 1
        while True:
            if text[at : at + 1] != '"':
                raise JSONDecodeError("expecting a key", text, at)
            key, at = self._json.value_at(text, at)
            value, at = take(key, self._mark(":", at)[1])
            if key in members:
                raise self._twice(key)
            members[key] = value
            if len(members) > limit:
                raise _RefusedError(Problem("data.too_costly", f"an object of more than {limit:,} members"))
            mark, at = self._mark(",}", at)
            if mark == "}":
                return members, at

    def _list(self, at: int, change: Callable[[Any], Any]) -> tuple[int, bytes, int]:
        """How many elements the list at `at` has, its canonical bytes with each element changed, its end."""
        text, batch, count = self._text, list[Any](), 0
        held = bytearray(b"[")
        begun = at = blanks_end(text, at + 1)
        if text[at : at + 1] == "]":
            return 0, b"[]", at + 1
        while True:
            value, at = self._value(at)
            batch.append(change(value))
            count += 1
            if count > _MAX_MERGES:
                raise _RefusedError(Problem("data.too_costly", f"a list of more than {_MAX_MERGES:,} items"))
            mark, at = self._mark(",]", at)
            last = mark == "]"
            if last or len(batch) == _BATCH or at - begun > _BATCH_TEXT:
                held += self._bytes(batch)[1:-1]
                held += b"]" if last else b","
                batch.clear()
                begun = at
            if last:
                return count, bytes(held), at

    def _mark(self, wanted: str, at: int) -> tuple[str, int]:
        """Which of the `wanted` marks comes next, and where what follows it begins."""
        found = _MARK.match(self._text, at)
        if not found or found[1] not in wanted:
            raise JSONDecodeError(f"expecting {' or '.join(wanted)}", self._text, at)
        return found[1], found.end()

    def _value(self, at: int) -> tuple[Any, int]:
        """The value that begins at `at` and where it ends; a bounded one, for it is parsed as a whole."""
        left = len(self._text) - at
        for size in _PIECES:
            piece = self._text[at : at + size]
            if size > _PIECES[0]:
                problem = too_costly(piece.encode("utf-8", "surrogatepass"), _PIECE_BUDGET)
                if problem:
                    raise _RefusedError(problem)
            try:
                value, end = self._json.value_at(piece, 0)
            except JSONDecodeError as exc:
                if left <= size:
                    raise JSONDecodeError(exc.msg, self._text, at + exc.pos) from exc
                continue  # cut off, perhaps
            if end < len(piece) or left <= size:  # else a number may go on behind the piece
                if self._json.duplicates:
                    raise self._twice(self._json.duplicates[0])
                return value, at + end
        what = f"one value of more than {_PIECES[-1] >> 20} MiB, or one that is broken"
        raise _RefusedError(Problem("data.too_costly", what))

    def _twice(self, key: str) -> _RefusedError:
        named = shown(key.encode(self._encoding, "replace").decode("utf-8", "replace"))
        return _RefusedError(Problem("data.duplicate_key", f"the key {named} stands twice in an object"))

    def _bytes(self, value: Any) -> bytes:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        made = text.encode(self._encoding, "strict" if self._encoding == "latin-1" else "surrogatepass")
        self._held += len(made)
        if self._held > LIMIT:  # `1e15` is written out as 18 characters
            raise _RefusedError(Problem("data.too_costly", "numbers that are longer than they are written"))
        return made

    def _feed(self, update: Callable[[bytes], None], members: dict[str, bytes | dict[str, Any]]) -> None:
        """Hash an object in canonical form, a member at a time."""
        mark = b"{"
        for key in sorted(members):
            update(mark + self._bytes(key) + b":")
            value = members[key]
            if isinstance(value, bytes):
                update(value)
            else:
                self._feed(update, value)
            mark = b","
        update(b"}" if members else b"{}")


def _without_new_defaults(value: Any) -> Any:
    """A part of the pipeline without what later libraries write although it is the default: `use_regex`."""
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if not (k == "use_regex" and v is True)}
        return {k: _without_new_defaults(v) for k, v in kept.items()}
    return [_without_new_defaults(v) for v in value] if isinstance(value, list) else value


def _split(merge: Any) -> Any:
    """A merge as two tokens: written as "a b" before tokenizers 0.20 and as ["a", "b"] since."""
    return merge.split(" ", 1) if isinstance(merge, str) else merge


def _not_utf8(data: bytes) -> Problem | None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    view = memoryview(data)
    try:
        for start in range(0, len(data), 1 << 20):
            decoder.decode(bytes(view[start : start + (1 << 20)]))
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as exc:
        return Problem("artifact.not_utf8", f"not UTF-8: {exc.reason}")
    return None


def _has_wide_escape(data: bytes) -> bool:
    """Whether a character beyond ASCII is written as an escape."""
    if b"\\u" not in data:
        return False
    return bool(_WIDE_ESCAPE.search(data.replace(b"\\\\", b"")))
