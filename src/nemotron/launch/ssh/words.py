"""The one place where an argument list becomes the text that a remote login shell reads.

ssh joins its words with blanks, and whatever shell the user has there reads the result: bash, zsh, tcsh or
fish, which quote in four ways. So it gets a text that all of them read alike: /bin/sh, and a script for it in
letters and digits. In the script each word is quoted for /bin/sh.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence

from nemotron.errors import UsageError
from nemotron.planning.words import shell_words

MARK = "::nemotron::"
"""A line before all that the command itself prints: start-up files of shells like to greet people."""

# As for commands of this machine: what SBATCH_* and the like say there would change what is meant.
_KEPT = ("USER", "LOGNAME", "LANG", "TZ", "SLURM_CONF", "KRB5CCNAME")
# One argument of a process holds 128 KiB; base64 takes a third more.
_LONGEST = 90_000


def remote_command(words: Sequence[str], *, cwd: str | None = None, utc: bool = False) -> str:
    """What to hand to ssh so that `words` runs there, in `cwd`; utc: with times in UTC.

    Raises UsageError for what no argument can hold, and for more than a command line takes.
    """
    kept = [f'${{{name}+"{name}=${name}"}}' for name in _KEPT if not (utc and name == "TZ")]
    environment = ['PATH="$PATH"', 'HOME="$HOME"', *kept, *(["TZ=UTC"] if utc else [])]
    lines = [f"echo {MARK}"]
    if cwd is not None:
        lines.append(f"cd -- {shell_words([cwd])} || exit 1")
    lines.append(f"exec env -i {' '.join(environment)} {shell_words(words)}")
    script = "\n".join(lines).encode("utf-8", "surrogateescape")
    if len(script) > _LONGEST:
        raise UsageError(f"a command of {len(script)} bytes is too long for a remote shell", where=words[0])
    return f"exec /bin/sh -c 'eval \"$(echo {base64.b64encode(script).decode()} | base64 -d)\"'"
