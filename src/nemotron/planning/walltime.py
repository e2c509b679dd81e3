"""How long an allocation is, and when in it a trainer has to save."""

from __future__ import annotations

import re

from nemotron.errors import UsageError

_TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")
# A checkpoint of a large model takes minutes to write; of a short allocation most should be left to train.
_SAVE_SECONDS, _SAVE_SHARE, _SAVE_LEAST = 900, 10, 30


def seconds_of(time: object) -> int | None:
    """A time limit as Slurm writes it, in seconds: minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM, D-HH:MM:SS.

    None for no limit. Raises UsageError for anything else.
    """
    if time is None or str(time).upper() in ("UNLIMITED", "INFINITE"):
        return None
    found = _TIME.fullmatch(str(time).strip())
    if found is None:
        valid = ("30 (minutes)", "04:00:00", "1-12:00:00")
        raise UsageError(f"time = {time!r} is no time limit", where="time", valid=valid)
    days, first, second, third = (int(part) if part else 0 for part in found.groups())
    if found[1] is not None:
        return ((days * 24 + first) * 60 + second) * 60 + third
    if found[3] is None:
        return first * 60
    return first * 60 + second if found[4] is None else (first * 60 + second) * 60 + third


def save_before(minutes: int | None, signal: str | None, seconds: int | None) -> int | None:
    """Seconds before an allocation of `seconds` ends at which the trainer is asked to save.

    minutes: of the profile's `must_save_before`. signal: sbatch's option; its time counts where no minutes
    are given. Raises UsageError when nothing of the allocation would be left.
    """
    if seconds is None:
        return None
    at = str(signal or "").partition("@")[2]
    asked = minutes * 60 if minutes is not None else int(at) if at else None
    if asked is None:
        return max(min(_SAVE_SECONDS, seconds // _SAVE_SHARE), min(_SAVE_LEAST, seconds // 2))
    if asked >= seconds:
        raise UsageError(
            f"the job would have to save {asked} s before the end of an allocation of {seconds} s",
            where="must_save_before" if minutes is not None else "signal",
            next="give it more time, or less for saving: must_save_before takes minutes",
        )
    return asked
