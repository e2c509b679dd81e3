"""Profiles: where and how a step runs, as tables of TOML files that a site writes."""
