"""URLs as text: which parts of one are nobody's business, and how a secret part is named, not written.

Nothing is opened here; see `remote` for that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from nemotron.errors import UsageError

_HIDDEN = "..."
# abfs://CONTAINER@ACCOUNT/PATH: what stands before the @ is a place there.
_CONTAINER_SCHEMES = ("abfs", "abfss", "wasb", "wasbs")
_ENVIRONMENT = re.compile(r"\$\{oc\.env:([A-Za-z_][A-Za-z0-9_]*)\}")
_SECRET_NAME = re.compile(
    r"(?i)(?:^|[-_.])(?:sig|sign|signature|token|key|apikey|secret|password|passwd|pwd|auth|authorization"
    r"|credentials?|code|jwt|sas|policy|hmac)(?:$|[-_.])|^x-(?:amz|goog|ms|oss)-|accesskeyid|securitytoken"
)
# Long, and not one of the names below: a signature of a kind that is not in the list above.
_OPAQUE = re.compile(r"[A-Za-z0-9+/_=.%~-]{32,}")
_PUBLIC_NAMES = ("versionid", "generation", "rev", "ref", "revision", "commit", "checksum", "sha256", "md5")
# Schemes of bounded length: on 100,000 letters in a row an unbounded one takes 20 s.
_IN_TEXT = re.compile(r"(?<![A-Za-z0-9+.-])[A-Za-z][A-Za-z0-9+.-]{0,30}://[^\s'\"<>]+")


class _Parts(NamedTuple):
    scheme: str
    login: str
    place: str
    query: str
    fragment: str


def _split(url: str) -> _Parts:
    scheme, _, rest = url.partition("://")
    rest, _, fragment = rest.partition("#")
    rest, _, query = rest.partition("?")
    authority, slash, path = rest.partition("/")
    login, _, host = authority.rpartition("@")
    if not login and "@" in path and not re.fullmatch(r"[^:]*(:\d*)?|\[[0-9A-Fa-f:.]*\](:\d*)?", host):
        # A password with a slash in it: what looks like a port is none.
        login, _, place = rest.rpartition("@")
        return _Parts(scheme.lower(), login, place, query, fragment)
    if scheme.lower() in _CONTAINER_SCHEMES and ":" not in login:
        return _Parts(scheme.lower(), "", authority + slash + path, query, fragment)
    return _Parts(scheme.lower(), login, host + slash + path, query, fragment)


def redacted(url: str) -> str:
    """The URL without login, query and fragment; `...` stands where one was.

    Text without `://` comes back as it is.
    """
    if "://" not in url:
        return url
    parts = _split(url)
    shown = f"{parts.scheme}://" + (f"{_HIDDEN}@" if parts.login else "") + parts.place
    return shown + (f"?{_HIDDEN}" if parts.query else "") + (f"#{_HIDDEN}" if parts.fragment else "")


def scrubbed(text: str) -> str:
    """A message of somebody else's with every URL in it redacted."""
    return _IN_TEXT.sub(lambda found: redacted(found[0]), text)


def refuse_secrets(url: str, *, where: str | None = None) -> None:
    """Raise UsageError when a URL has a login, or a query that looks like one, written into it.

    `${oc.env:NAME}` in a query is no secret: see `filled`.
    """
    parts = _split(url)
    if parts.login:
        raise UsageError(
            f"a user name or password in the URL {redacted(url)}",
            where=where,
            next="leave it out; the usual settings are used (AWS_PROFILE, GOOGLE_APPLICATION_CREDENTIALS)",
        )
    for item in parts.query.split("&"):
        name, equals, value = item.partition("=")
        if not equals:
            name, value = "", name
        bare = _ENVIRONMENT.sub("", value)
        if bare and _is_secret(name, bare):
            raise UsageError(
                f"the query of {redacted(url)} holds what looks like a credential ({name or 'all of it'})",
                where=where,
                next=f"export it, and write {name or 'NAME'}=${{oc.env:VARIABLE}} in its place",
            )


def _is_secret(name: str, value: str) -> bool:
    if name.lower() in _PUBLIC_NAMES:
        return False
    return bool(_SECRET_NAME.search(name) or _OPAQUE.fullmatch(value))


def filled(url: str, environ: Mapping[str, str]) -> str:
    """The URL with `${oc.env:NAME}` replaced from the environment. Raises UsageError for an unset NAME."""
    missing = [name for name in _ENVIRONMENT.findall(url) if not environ.get(name)]
    if missing:
        raise UsageError(
            f"{', '.join(dict.fromkeys(missing))} is not set",
            where=redacted(url),
            next=f"export {missing[0]}=...",
        )
    return _ENVIRONMENT.sub(lambda found: environ[found[1]], url)
