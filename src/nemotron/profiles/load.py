"""All profiles in reach, and one of them in full."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemotron.artifacts.paths import printable
from nemotron.errors import NemotronError, NotFound, UsageError
from nemotron.findings import Finding, errors_in
from nemotron.profiles.extend import chain_of
from nemotron.profiles.files import Entry, find_profile_files, read_all

if TYPE_CHECKING:
    from nemotron.profiles.profile import Profile


@dataclass(frozen=True)
class ListedProfile:
    """A profile as lists show it: nothing is filled in, the environment is not looked at.

    executor, description: as written, in the profile or in what it extends; None where they are not.
    problem: why it cannot be used, as far as can be told so.
    """

    name: str
    executor: str | None
    extends: str | None
    description: str | None
    file: Path
    line: int | None
    problem: str | None = None


@dataclass(frozen=True)
class Profiles:
    """The profiles of some files; see `load_profiles`.

    files: those that were read, in order.
    findings: files that could not be read, and what in the others is no profile.
    """

    files: tuple[Path, ...]
    entries: Mapping[str, tuple[Entry, ...]]
    findings: tuple[Finding, ...]
    environ: Mapping[str, str]

    def listed(self) -> tuple[ListedProfile, ...]:
        """Every profile, by file and line; one of a name that stands twice is listed twice."""
        return tuple(self._listed(entry) for same in self.entries.values() for entry in same)

    def get(self, name: str) -> Profile:
        """A profile to launch on.

        Raises
        ------
        NotFound: there is none of this name, or none of one that it extends.
        UsageError: it cannot be used; `findings` holds all reasons.
        """
        profile = self.examine(name)
        errors = errors_in(profile.findings)
        if errors:
            count = "an error" if len(errors) == 1 else f"{len(errors)} errors"
            raise UsageError(
                f"profile {printable(name)} has {count}",
                where=printable(profile.file),
                next=f"nemotron profiles check {name}",
                findings=errors,
            )
        return profile

    def examine(self, name: str) -> Profile:
        """A profile with whatever is wrong with it in `findings`.

        Raises NotFound and UsageError where there is nothing to examine: no such profile, the same name
        in several files, an impossible `extends`.
        """
        # What follows costs more than a list of profiles may.
        from nemotron.profiles.examine import examined

        try:
            chain = chain_of(name, self.entries)
        except NotFound as error:
            raise self._not_found(error) from error
        return examined(name, chain, self.environ)

    def _listed(self, entry: Entry) -> ListedProfile:
        try:
            chain, problem = chain_of(entry.name, self.entries), None
        except NemotronError as error:
            chain, problem = (entry,), error.what
        extends = entry.table.get("extends")
        return ListedProfile(
            name=entry.name,
            executor=_first_text("executor", chain),
            extends=extends if isinstance(extends, str) else None,
            # What a base says of itself is not said of what is based on it.
            description=_first_text("description", chain[:1]),
            file=entry.source.path,
            line=entry.line(),
            problem=problem,
        )

    def _not_found(self, error: NotFound) -> NotFound:
        """The error, with the files that were looked at or could not be."""
        unread = errors_in(self.findings)
        if not self.files:
            next_ = "write an env.toml, or name your file: export NEMOTRON_ENV_FILE=..."
            return NotFound(f"{error.what}: there is no file of profiles in reach", next=next_)
        where = error.where or ", ".join(map(printable, self.files))
        return NotFound(
            error.what,
            where=where,
            nearest=error.nearest,
            valid=error.valid,
            next=error.next,
            findings=unread,
        )


def load_profiles(environ: Mapping[str, str], cwd: Path) -> Profiles:
    """The profiles that a command running in `cwd` can use; see `find_profile_files` for where they are.

    Files are read, nothing is resolved: what is wrong with one profile, or a variable it needs, does not
    matter to another. Errors: see `find_profile_files`.
    """
    files = find_profile_files(environ, cwd)
    entries, findings = read_all(files)
    by_name: dict[str, tuple[Entry, ...]] = {}
    for entry in entries:
        by_name[entry.name] = (*by_name.get(entry.name, ()), entry)
    return Profiles(files, by_name, findings, environ)


def _first_text(key: str, chain: tuple[Entry, ...]) -> str | None:
    found: Any = next((entry.table[key] for entry in chain if key in entry.table), None)
    return found if isinstance(found, str) else None
