"""Places with the permissions that a test needs, also where the tests run as root."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

NOBODY = 65534


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A directory of a user whom permissions stop; root becomes that user for the test."""
    root = os.geteuid() == 0
    directory = Path(tempfile.mkdtemp())
    if root:
        os.chown(directory, NOBODY, NOBODY)
        os.seteuid(NOBODY)
    try:
        yield directory
    finally:
        if root:
            os.seteuid(0)
        for inner in [directory, *directory.rglob("*")]:
            if inner.is_dir():
                inner.chmod(0o700)
        shutil.rmtree(directory)
