"""Files that never travel with a run and are never shown, told by their names."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import PurePosixPath

_FILES = (
    "env*.toml", ".env", ".env.*", "*.env", ".secrets", "secrets.toml", "secrets.yaml", "secrets.yml",
    "secrets.json", "credentials", "credentials.*", ".git-credentials", ".netrc", ".npmrc", ".pypirc",
    "*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.kdbx", "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*",
)  # fmt: skip
_DIRECTORIES = frozenset((".git", ".ssh", ".aws", ".gnupg", ".nemotron"))


def is_private(name: str) -> bool:
    """Whether the file of this relative path is taken to hold secrets: profiles, keys, credentials.

    A Python file is code: `credentials.py` is a module, and travels.
    """
    path = PurePosixPath(name)
    if not _DIRECTORIES.isdisjoint(path.parts[:-1]):
        return True
    last = path.name.lower()
    return not last.endswith(".py") and any(fnmatch(last, pattern) for pattern in _FILES)
