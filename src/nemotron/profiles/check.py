"""Whether a profile can be launched on: what the file says, and what the scheduler says to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from nemotron.errors import SchedulerError, nearest
from nemotron.findings import Finding, errors_in
from nemotron.profiles.load import Profiles
from nemotron.profiles.profile import Profile


@dataclass(frozen=True)
class Partition:
    """A partition as its scheduler describes it; None where it does not say."""

    name: str
    nodes: int | None = None
    gpus_per_node: int | None = None


class SchedulerProbe(Protocol):
    """What a scheduler knows that a profile can be compared with. A backend of `launch` provides one.

    Each may raise SchedulerError when the scheduler does not answer.
    """

    def partitions(self) -> Mapping[str, Partition]:
        """All partitions that this user may see, by name."""

    def accounts(self) -> tuple[str, ...] | None:
        """The accounts this user may charge; None where the scheduler keeps none."""

    def start_time(self, profile: Profile) -> str | None:
        """When a job of this shape would start; None where that cannot be told."""

    def findings(self, options: Mapping[str, Any], nodes: int, gpus_per_node: int) -> Iterable[Finding]:
        """What else is asked for and not there, such as node groups and secrets; empty where that is all.

        options: of a placement, or the values of a profile.
        """


@dataclass(frozen=True)
class CheckedProfile:
    """A profile, all that was found, and what the scheduler said.

    asked: whether a scheduler was asked at all.
    start_time: when a job of it would start, where the scheduler can tell.
    """

    profile: Profile
    findings: tuple[Finding, ...]
    asked: bool
    start_time: str | None = None


def check_profile(profiles: Profiles, name: str, probe: SchedulerProbe | None = None) -> CheckedProfile:
    """Check a profile: its keys, its secrets, and with a probe its partition, account, nodes and GPUs.

    A scheduler that does not answer is a warning. Raises as `Profiles.examine` does.
    """
    profile = profiles.examine(name)
    findings = [*profile.findings, *_unset(profile, profiles.environ)]
    if probe is None or errors_in(findings):
        return CheckedProfile(profile, tuple(findings), asked=False)
    try:
        refused = [
            *_partition_findings(profile, probe.partitions()),
            *_account_findings(profile, probe.accounts()),
            *_other_findings(profile, probe),
        ]
        # It would be asked about a job that it has just been found to refuse.
        start = None if refused else probe.start_time(profile)
    except SchedulerError as silent:
        what = f"the scheduler does not answer: {silent.what}"
        findings.append(Finding("profiles.silent", "warning", what, silent.where))
        return CheckedProfile(profile, tuple(findings), asked=False)
    return CheckedProfile(profile, (*findings, *refused), asked=True, start_time=start)


def _unset(profile: Profile, environ: Mapping[str, str]) -> Iterator[Finding]:
    for secret in profile.secrets:
        if secret.variable and not secret.optional and not environ.get(secret.variable):
            what = f"{secret.variable} is not set here; nothing can be submitted without it"
            fix = f"export {secret.variable}=..."
            yield Finding("profiles.unset", "warning", what, _place(profile, secret.key), fix=fix)


def _partition_findings(profile: Profile, known: Mapping[str, Partition]) -> Iterator[Finding]:
    for key in ("partition", "run_partition", "batch_partition"):
        name = profile.get(key)
        # One job may name several partitions; the scheduler takes the first that is free.
        for each in str(name).split(",") if name else ():
            partition = known.get(each)
            if partition is None:
                close = nearest(each, known, 1)
                fix = f'did you mean "{close[0]}"?' if close else None
                valid = ", ".join(known)
                what = f"the scheduler has no partition {each}"
                yield Finding("profiles.partition", "error", what, _place(profile, key), valid, fix)
            else:
                yield from _shape_findings(profile, partition)


def _shape_findings(profile: Profile, partition: Partition) -> Iterator[Finding]:
    for key, there in (("nodes", partition.nodes), ("gpus_per_node", partition.gpus_per_node)):
        asked = profile.get(key)
        if isinstance(asked, int) and there is not None and asked > there:
            what = f"{key} = {asked}, and partition {partition.name} has {there}"
            yield Finding(f"profiles.{key}", "error", what, _place(profile, key), f"{there} at most")


def _account_findings(profile: Profile, known: tuple[str, ...] | None) -> Iterator[Finding]:
    account = profile.get("account")
    if account and known is not None and account not in known:
        close = nearest(account, known, 1)
        fix = f'did you mean "{close[0]}"?' if close else None
        what = f"you have no account {account}"
        yield Finding("profiles.account", "error", what, _place(profile, "account"), ", ".join(known), fix)


def _other_findings(profile: Profile, probe: SchedulerProbe) -> Iterator[Finding]:
    nodes, gpus = profile.get("nodes", 1), profile.get("gpus_per_node", 0)
    for found in probe.findings(profile.values, int(nodes), int(gpus)):
        yield replace(found, where=_place(profile, found.where or "") or found.where)


def _place(profile: Profile, key: str) -> str | None:
    origin = profile.origins.get(key)
    return origin.place if origin else None
