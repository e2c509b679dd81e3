"""The index over a store's records: a SQLite file on local disk that can be rebuilt at any time."""
