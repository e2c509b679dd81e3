"""Our own OpenLineage facets, described in facets.json. Imports the client: only for who exports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attr
from openlineage.client.facet_v2 import DatasetFacet, RunFacet

from nemotron import __version__

# Package URLs are URIs that need no server; nobody has to be able to fetch this one.
PRODUCER = f"pkg:generic/nemotron@{__version__}"
SCHEMA = "urn:nemotron:openlineage-facets:1-0-0"


@attr.define(kw_only=True)
class NemotronRunFacet(RunFacet):
    """An attempt of a run, as its records tell it."""

    run_id: str
    attempt: int
    engine: str | None = None
    engine_version: str | None = None
    recipe_digest: str | None = None
    plan_digest: str | None = None
    host: str | None = None
    user: str | None = None
    backend: str | None = None
    profile: str | None = None
    scheduler_id: str | None = None
    exit_code: int | None = None
    reason: str | None = None
    metrics: Mapping[str, Any] | None = None
    code: Mapping[str, Any] | None = None

    @staticmethod
    def _get_schema() -> str:
        return f"{SCHEMA}#/$defs/NemotronRunFacet"


@attr.define(kw_only=True)
class NemotronArtifactFacet(DatasetFacet):
    """An artifact at a port of a run."""

    port: str
    type: str
    digest: str | None = None
    reference: str | None = None
    made_by: str | None = None
    step_of_training: int | None = None
    facts: Mapping[str, Any] | None = None

    @staticmethod
    def _get_schema() -> str:
        return f"{SCHEMA}#/$defs/NemotronArtifactFacet"
