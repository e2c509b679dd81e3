"""A run as OpenLineage events: START, and COMPLETE, FAIL or ABORT, of every attempt.

Names: the job is the step, in the namespace of its catalog root. Every attempt is an OpenLineage run, whose
parent is our run. A dataset is a place: namespace `file` and the path, or scheme and host of a URL and the
rest; its content is the `version` facet.
"""

from __future__ import annotations

import uuid
from typing import Any

from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.facet_v2 import (
    DatasetFacet,
    JobFacet,
    RunFacet,
    dataset_type_dataset,
    dataset_version_dataset,
    documentation_job,
    error_message_run,
    input_statistics_input_dataset,
    job_type_job,
    output_statistics_output_dataset,
    parent_run,
    processing_engine_run,
    schema_dataset,
    storage_dataset,
)
from openlineage.client.serde import Serde

from nemotron import __version__
from nemotron.exports.facets import PRODUCER, NemotronArtifactFacet, NemotronRunFacet
from nemotron.exports.history import Attempt, History, Item

# The job that a run as a whole belongs to: what starts attempts of steps.
LAUNCHER = "nemotron"
_FORMATS = (("_jsonl", "json"), ("_parquet", "parquet"), ("checkpoint_hf", "safetensors"))
_MODELS = ("checkpoint_", "reward_model_")


def events_of(history: History, description: str | None = None) -> list[str]:
    """The events of a run in order, each as one line of JSON.

    description: what the step does. An attempt that is going on has no second event yet.
    """
    lines = []
    for attempt in history.attempts:
        job = _job(attempt, description)
        inputs = [_input(item) for item in attempt.inputs]
        start = _event(RunState.START, attempt.started_at, history, attempt, job)
        start.inputs = inputs
        lines.append(Serde.to_json(start))
        if attempt.ended_at is None:
            continue
        end = _event(_outcome(attempt), attempt.ended_at, history, attempt, job)
        end.inputs = inputs
        end.outputs = [_output(item) for item in attempt.outputs]
        lines.append(Serde.to_json(end))
    return lines


def run_uuid(run_id: str, attempt: int | None = None) -> str:
    """The UUID of an attempt of a run, or of the run as a whole; the same everywhere and always."""
    space = uuid.uuid5(uuid.NAMESPACE_OID, "nemotron.run")
    return str(uuid.uuid5(space, run_id if attempt is None else f"{run_id}/{attempt}"))


def dataset_name(path: str) -> tuple[str, str]:
    """Namespace and name of the dataset at a path or URL."""
    scheme, separator, rest = path.partition("://")
    if not separator:
        return "file", path
    host, _, name = rest.partition("/")
    return f"{scheme}://{host}", name or "/"


def _event(state: RunState, at: str, history: History, attempt: Attempt, job: Job) -> RunEvent:
    run = Run(run_uuid(history.run.id, attempt.number), _run_facets(state, history, attempt))
    return RunEvent(eventType=state, eventTime=at, run=run, job=job, producer=PRODUCER)


def _outcome(attempt: Attempt) -> RunState:
    ended = attempt.phases.get("ended")
    if ended is None or ended.reason == "interrupted":
        return RunState.ABORT
    return RunState.COMPLETE if ended.exit_code == 0 else RunState.FAIL


def _namespace(attempt: Attempt) -> str:
    return attempt.record.root or "nemotron"


def _job(attempt: Attempt, description: str | None) -> Job:
    kind = job_type_job.JobTypeJobFacet(
        processingType="BATCH", integration="NEMOTRON", jobType="STEP", producer=PRODUCER
    )
    facets: dict[str, JobFacet] = {"jobType": kind}
    if description:
        facets["documentation"] = documentation_job.DocumentationJobFacet(description, producer=PRODUCER)
    return Job(_namespace(attempt), attempt.record.step or "unknown", facets)


def _run_facets(state: RunState, history: History, attempt: Attempt) -> dict[str, RunFacet]:
    record = attempt.phases.get("started", attempt.record) if state == RunState.START else attempt.record
    facets: dict[str, RunFacet] = {
        "parent": parent_run.ParentRunFacet(
            run=parent_run.Run(run_uuid(history.run.id)),
            job=parent_run.Job(_namespace(attempt), LAUNCHER),
            producer=PRODUCER,
        ),
        "processing_engine": processing_engine_run.ProcessingEngineRunFacet(
            version=record.nemotron_version or __version__,
            name="nemotron",
            openlineageAdapterVersion=__version__,
            producer=PRODUCER,
        ),
        "nemotron_run": NemotronRunFacet(
            run_id=history.run.id,
            attempt=attempt.number,
            engine=record.engine,
            engine_version=record.engine_version,
            recipe_digest=record.recipe_digest,
            plan_digest=record.plan_digest,
            host=record.host,
            user=record.user,
            backend=record.backend,
            profile=record.profile,
            scheduler_id=record.scheduler_id,
            exit_code=record.exit_code,
            reason=record.reason,
            metrics=record.metrics,
            code=record.code,
            producer=PRODUCER,
        ),
    }
    if state == RunState.FAIL:
        facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(
            _message(history, attempt), "PYTHON", producer=PRODUCER
        )
    return facets


def _message(history: History, attempt: Attempt) -> str:
    """The trainer's own word; it is kept of the last attempt only."""
    last = attempt.number == history.attempts[-1].number
    said = history.run.failure.get("what") if last else None
    record = attempt.record
    return str(said or f"{record.reason or 'failed'}, exit code {record.exit_code}")


def _input(item: Item) -> InputDataset:
    counts = {"rowCount": item.rows, "size": item.bytes, "fileCount": item.files}
    statistics = input_statistics_input_dataset.InputStatisticsInputDatasetFacet(**counts, producer=PRODUCER)
    known = any(value is not None for value in counts.values())
    return InputDataset(
        *dataset_name(item.path),
        inputFacets={"inputStatistics": statistics} if known else {},
        facets=_dataset_facets(item),
    )


def _output(item: Item) -> OutputDataset:
    counts = {"rowCount": item.rows, "size": item.bytes, "fileCount": item.files}
    statistics = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
        **counts, producer=PRODUCER
    )
    known = any(value is not None for value in counts.values())
    return OutputDataset(
        *dataset_name(item.path),
        outputFacets={"outputStatistics": statistics} if known else {},
        facets=_dataset_facets(item),
    )


def _dataset_facets(item: Item) -> dict[str, DatasetFacet]:
    model = item.type.startswith(_MODELS)
    # The layers that the specification names are table formats; a plain file has none of them.
    layer = item.path.partition("://")[0] if "://" in item.path else "file"
    form = next((form for part, form in _FORMATS if part in item.type), None)
    facets: dict[str, DatasetFacet] = {
        "datasetType": dataset_type_dataset.DatasetTypeDatasetFacet(
            "MODEL" if model else "FILE", item.type, producer=PRODUCER
        ),
        "storage": storage_dataset.StorageDatasetFacet(layer, form, producer=PRODUCER),
        "nemotron_artifact": NemotronArtifactFacet(
            port=item.port,
            type=item.type,
            digest=item.digest,
            reference=item.reference,
            made_by=item.made_by,
            step_of_training=item.step_of_training,
            facts=item.facts or None,
            producer=PRODUCER,
        ),
    }
    if item.digest is not None:
        version = dataset_version_dataset.DatasetVersionDatasetFacet(item.digest, producer=PRODUCER)
        facets["version"] = version
    fields: Any = item.facts.get("fields")
    if isinstance(fields, dict) and fields:
        # No positions: the fields of JSON rows have no order.
        columns = [schema_dataset.SchemaDatasetFacetFields(name) for name in fields]
        facets["schema"] = schema_dataset.SchemaDatasetFacet(columns, producer=PRODUCER)
    return facets
