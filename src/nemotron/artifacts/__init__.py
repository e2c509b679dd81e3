"""Artifacts: references to them, their identity, checks of their content, records, the store."""
