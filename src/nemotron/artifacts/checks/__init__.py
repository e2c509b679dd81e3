"""What a location holds, checked against an artifact type; standard library only, nothing is trusted."""

from .check import check_artifact, known_types
from .guess import guess_type
from .report import Checked

__all__ = ["Checked", "check_artifact", "guess_type", "known_types"]
