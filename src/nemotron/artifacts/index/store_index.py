"""The index of a store, up to date."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from nemotron.artifacts.index.database import forget_index, index_in_memory, is_damaged, open_index
from nemotron.artifacts.index.queries import Index
from nemotron.artifacts.index.sync import Progress, sync_index
from nemotron.artifacts.store import Store


def store_index(store: Store, environ: Mapping[str, str], progress: Progress | None = None) -> Index:
    """The index of a store's records, with everything in it that is recorded by now.

    progress: called with records read and to be read. Where the store's URL does not answer, `Index.stale`
    says so. Errors: see `os_error`, of the records directory.
    """
    stale = catch_up(store)
    database = open_index(store.root, environ)
    try:
        sync_index(database, store.records_dir, progress)
    except sqlite3.Error as problem:
        database.close()
        if is_damaged(problem):
            # The records hold everything that was in it.
            return rebuild_index(store, environ, progress)
        # No room on the disk, say: this command has its index, and the next one tries again.
        database = index_in_memory()
        sync_index(database, store.records_dir, progress)
    return Index(database, stale)


def catch_up(store: Store) -> str | None:
    """Bring records here and at the store's URL together; why that cannot be now, None when it is done.

    What is here is whole without it, and what is not there yet is brought by the next call.
    """
    if store.remote is None:
        return None
    from nemotron.artifacts.mirror import sync_records
    from nemotron.errors import NemotronError

    try:
        synced = sync_records(store)
    except NemotronError as problem:
        return f"records of others may be missing: {problem.what}"
    if synced.findings:
        return f"{len(synced.findings)} files at the store's URL are no records: {synced.findings[0].message}"
    return None


def rebuild_index(store: Store, environ: Mapping[str, str], progress: Progress | None = None) -> Index:
    """The index of a store, made anew from its records."""
    forget_index(store.root, environ)
    database = open_index(store.root, environ)
    sync_index(database, store.records_dir, progress)
    return Index(database)
