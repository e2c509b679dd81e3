"""How a path is shown to people: always printable, whatever bytes its name is made of."""

from __future__ import annotations

import os
from pathlib import Path


def printable(path: str | bytes | Path) -> str:
    """`path` as text that any terminal and any JSON file takes.

    Bytes that are not UTF-8 and control characters appear as backslash escapes, so a hostile file name
    neither breaks the output stream nor moves the cursor.
    """
    try:
        text = os.fsencode(path).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # a surrogate that stands for no byte
        text = str(path).encode("utf-8", "backslashreplace").decode("utf-8")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
