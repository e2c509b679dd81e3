"""From a plan to jobs that a scheduler holds: each run journalled before and after, what is done reused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from nemotron.artifacts.records import AttemptRecord, timestamp, write_record
from nemotron.artifacts.references import parse_reference
from nemotron.artifacts.runs import RECORD_FILE, Run
from nemotron.artifacts.store import Store
from nemotron.artifacts.submissions import Journal, Submission
from nemotron.catalog.discover import load_catalog
from nemotron.errors import CheckFailed, Conflict, NemotronError, NotFound, UsageError
from nemotron.findings import Finding
from nemotron.launch.backend import Addressed, After, Backend, Unanswered, find_backend
from nemotron.launch.bundle import new_run_directory, write_bundle, write_secrets
from nemotron.launch.fetching import cached_snapshot, can_fetch, fetch_input, is_hub_model
from nemotron.launch.finish import finish
from nemotron.launch.launcher import recipe_claim
from nemotron.launch.prepare import NO_BACKEND
from nemotron.launch.refresh import ANSWER_SECONDS, refresh
from nemotron.launch.secret_values import secret_values
from nemotron.planning.earlier import find_earlier, without_earlier
from nemotron.planning.model_identity import recheck
from nemotron.planning.named import refuse_tainted_inputs
from nemotron.planning.pinning import input_of_run
from nemotron.planning.plan import Plan, PlannedInput
from nemotron.planning.preflight import blocking
from nemotron.sources.bundle import bundle_code, write_code

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Submitted:
    """A run that a scheduler has, or one of the same recipe that is done.

    outcome: `submitted`, `resumed` (a run that was cut off goes on) or `reused`. jobs: in their order.
    before: the runs it waits for or is built on, in the order in which they were submitted.
    """

    run: Run
    outcome: Literal["submitted", "resumed", "reused"]
    jobs: tuple[Submission, ...] = ()
    before: tuple[Submitted, ...] = ()


@dataclass(frozen=True)
class Submitter:
    """Submits plans of one store.

    cwd: where profiles are looked for, whose secrets are needed once more. use_cache: take a finished or
    interrupted run of the same recipe for the last plan; what it builds on is reused either way.
    """

    store: Store
    environ: Mapping[str, str]
    cwd: Path
    use_cache: bool = True
    progress: Progress | None = None

    def submit(self, plan: Plan) -> Submitted:
        """Hand a plan over, after the plans it builds on; each waits for those it needs.

        Raises
        ------
        CheckFailed, NotFound: a finding stops it; nothing was submitted.
        Conflict: a run of the same recipe is waiting or going on.
        UsageError: a secret is not set. SchedulerError: the scheduler refuses or does not answer; what was
        submitted before that stays, and the journals tell.
        """
        _refuse(plan)
        plans = [*plan.builds, ("", plan)]
        secrets = {key: secret_values(each, self.environ, self.cwd) for key, each in plans}
        built: dict[str, Submitted] = {}
        for key, each in plans:
            ready = self._ready(each, built)
            built[key] = self._one(ready, secrets[key], is_input=bool(key))
        last = built.pop("")
        return replace(last, before=tuple(built.values()))

    def _ready(self, plan: Plan, built: Mapping[str, Submitted]) -> Plan:
        """The plan with its inputs pinned as far as they can be before it starts."""
        inputs = tuple(self._pinned(i, built, plan) for i in plan.inputs)
        ready = replace(plan, builds=(), done_by=None, resumes=None).with_inputs(inputs)
        refuse_tainted_inputs(plan, ready, self.store, self.environ)
        return recheck(plan, ready, self.environ)

    def _pinned(self, each: PlannedInput, built: Mapping[str, Submitted], plan: Plan) -> PlannedInput:
        if each.build is not None and each.build in built:
            return input_of_run(each, built[each.build].run)
        if each.state != "late" or plan.placement.stub or not can_fetch(each):
            return each
        if is_hub_model(each):
            return self._hub_model(each, plan.placement.environment)
        return fetch_input(each, self.environ, self.store, self.progress)

    def _hub_model(self, each: PlannedInput, environment: Mapping[str, str]) -> PlannedInput:
        """A model of the hub: where the job's cache has it, else its name, which the trainer resolves."""
        environ = {**self.environ, **environment}
        reference = parse_reference(str(each.reference))
        if cached_snapshot(reference, environ) is not None:
            return fetch_input(each, environ, self.store, self.progress)
        if reference.version is not None:
            raise CheckFailed(
                f"input {each.port}: revision {reference.version} of {reference.name} is not in the job's "
                "cache, and a trainer that is given a name takes the newest",
                where=str(each.reference),
                next=f"hf download {reference.name} --revision {reference.version}, with the job's HF_HOME",
            )
        return each

    def _one(self, plan: Plan, secrets: Mapping[str, str], *, is_input: bool) -> Submitted:
        reuses = self.use_cache or is_input
        with recipe_claim(self.store, plan) as refused:
            found = find_earlier(plan, self.store, self.environ) if reuses else without_earlier(plan)
            if found.done_at is not None:
                return Submitted(Run(Path(found.done_at)), "reused")
            if refused is not None:
                raise refused
            if found.resumes is not None:
                run = Run(self.store.runs_dir / found.resumes)
                # What the scheduler once said may be long past, and a client that was killed noted no job.
                refresh(self.store, [run])
                jobs = Journal(run.directory).submitted()
                if run.state() == "succeeded":  # and nobody has waited for it
                    finish(self.store, run, self.environ, self.progress)
                    return Submitted(run, "reused")
                if is_input and jobs and run.state() in ("queued", "running"):
                    return Submitted(run, "reused", jobs)
                if run.state() in ("queued", "running") or Journal(run.directory).unanswered():
                    raise _going_on(run)
            else:
                run = Run(new_run_directory(plan, self.store))
            jobs = self._hand_over(plan, run, secrets)
        return Submitted(run, "resumed" if found.resumes else "submitted", jobs)

    def _hand_over(self, plan: Plan, run: Run, secrets: Mapping[str, str]) -> tuple[Submission, ...]:
        backend = find_backend(plan.placement.backend)
        after = self._waits_for(plan)
        late = late_inputs(plan, self.store)
        # What an earlier attempt left speaks of that attempt; the job would take it for this one's end.
        for stale in (RECORD_FILE, "failure.json"):
            (run.directory / stale).unlink(missing_ok=True)
        (run.directory / "logs").mkdir(exist_ok=True)
        self._ship_code(plan, run)
        write_bundle(run.directory, plan, self.store, late=late, secrets=secrets)
        try:
            jobs = self._parts(backend, plan, run, after)
        except Unanswered:
            raise  # its job may be there, and need them
        except NemotronError:
            write_secrets(run.directory, {})
            raise
        self._record(plan, run, jobs)
        return jobs

    def _ship_code(self, plan: Plan, run: Run) -> None:
        """The step's own code, as it was planned. Raises Conflict when it changed since."""
        planned = plan.placement.code.get("digest")
        if planned is None:
            return
        step = load_catalog(self.environ).get(f"{plan.placement.root}:{plan.recipe.step}")
        bundle = bundle_code(step.directory, step.script, catalog=step.root_path)
        if bundle.digest != planned:
            raise Conflict(
                f"the code of {plan.recipe.step} changed after it was planned",
                where=str(step.directory),
                next="type the same command again",
            )
        write_code(bundle, run.directory / "code")

    def _parts(
        self, backend: Backend, plan: Plan, run: Run, after: tuple[After, ...]
    ) -> tuple[Submission, ...]:
        """Every allocation of a chain, each after the one before, whatever becomes of that."""
        journal = Journal(run.directory)
        jobs: list[Submission] = []
        to = backend.connection(plan) if isinstance(backend, Addressed) else {}
        wanted = Submission(backend.name, "", run.id, parts=plan.placement.chain, connection=to)
        for part in range(1, plan.placement.chain + 1):
            begun = timestamp(datetime.now(UTC))
            wanted = replace(wanted, at=begun, part=part)
            journal.note("submitting", wanted)
            try:
                job = backend.submit(run.directory, plan, wanted, after)
            except Unanswered as problem:
                # The journal goes on asking: see `refresh`.
                raise Unanswered(
                    f"whether run {run.id} was submitted is not known: {problem.what}",
                    where=problem.where,
                    next=f"nemotron runs show {run.id}: it finds out, and nothing is submitted twice",
                ) from problem
            except NemotronError as problem:
                journal.note("failed", wanted, begun=begun, what=problem.what)
                if jobs:
                    backend.cancel(jobs)
                    for each in jobs:
                        journal.note("cancelled", each)
                raise
            journal.note("submitted", job, begun=begun)
            jobs.append(job)
            after = (After((job,), "any"),)
        return tuple(jobs)

    def _waits_for(self, plan: Plan) -> tuple[After, ...]:
        """The jobs that have to end first: those of the runs that make its inputs."""
        found = []
        for run_id in dict.fromkeys(str(i.made_by) for i in plan.inputs if i.state == "late" and i.made_by):
            run = Run(self.store.run_dir(run_id))
            jobs = Journal(run.directory).submitted()
            if not jobs:
                raise Conflict(
                    f"run {run_id} is going on, and no scheduler holds it",
                    where=str(run.directory),
                    next=f"nemotron runs wait {run_id}, then the same command",
                )
            foreign = {job.backend for job in jobs} - {plan.placement.backend}
            if foreign:
                raise UsageError(
                    f"run {run_id} is going on on {', '.join(foreign)}: nothing on {plan.placement.backend} "
                    "can wait for it",
                    next=f"nemotron runs wait {run_id}, then the same command",
                )
            # Which part of a chain is the last to do anything shows only when it is there.
            found.append(After(jobs, "ok" if len(jobs) == 1 else "any"))
        return tuple(found)

    def _record(self, plan: Plan, run: Run, jobs: tuple[Submission, ...]) -> None:
        """The moment of submission; what the journal says already counts where it cannot be written."""
        record = AttemptRecord(
            run_id=run.id,
            attempt=run.attempts + 1,
            phase="submitted",
            at=timestamp(datetime.now(UTC)),
            step=plan.recipe.step,
            root=plan.placement.root,
            engine=plan.recipe.engine,
            engine_version=plan.recipe.engine_version,
            plan_digest=plan.digest,
            recipe_digest=plan.recipe_digest,
            backend=plan.placement.backend,
            profile=plan.placement.profile,
            scheduler_id=jobs[0].job,
            directory=str(run.directory.resolve()),
            config_name=plan.config_name,
        )
        try:
            write_record(self.store.records_dir, record)
        except Conflict:
            return  # handed over once more before it ever began: the first time is on record


def late_inputs(plan: Plan, store: Store) -> dict[str, dict[str, Any]]:
    """What the job has to pin, as place.json holds it."""
    found: dict[str, dict[str, Any]] = {}
    for each in plan.inputs:
        if each.state != "late" or plan.placement.stub or is_hub_model(each):
            continue
        if each.made_by is not None:
            directory = str((store.runs_dir / each.made_by).resolve())
            more = {"run": each.made_by, "directory": directory, "port": each.output}
        else:
            more = {"path": each.path}
        found[each.port] = {"types": list(each.types), **more}
    return found


def _refuse(plan: Plan) -> None:
    """Raise for everything that stops a submission, all at once."""
    plans = [plan, *(each for _, each in plan.builds)]
    stops = (*blocking(plan), *(f for p in plans for f in p.findings if f.id == NO_BACKEND))
    if not stops:
        return
    count = "1 finding stops" if len(stops) == 1 else f"{len(stops)} findings stop"
    kind = NotFound if all(f.id == "input.not_found" for f in stops) else CheckFailed
    raise kind(f"{count} the submission", where=plan.recipe.step, findings=_told_once(stops))


def _told_once(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    return tuple(dict.fromkeys(findings))


def _going_on(run: Run) -> Conflict:
    if run.state() == "unknown":
        return Conflict(
            f"run {run.id} of the same recipe was being submitted; the scheduler does not know its job yet",
            where=str(run.directory),
            next=f"try again: after {ANSWER_SECONDS:.0f} s without a job it counts as never submitted",
        )
    return Conflict(
        f"run {run.id} of the same recipe is {run.state()}",
        where=str(run.directory),
        next=f"nemotron runs logs {run.id} -f, or --no-cache for another run of the same",
    )
