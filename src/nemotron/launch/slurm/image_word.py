"""The image of a job as a word of its script."""

from __future__ import annotations

from nemotron.launch.slurm.images import Image, resolve
from nemotron.planning.plan import Placement
from nemotron.planning.words import shell_words

_RUN_DIR = "{run_dir}/"


def image_of(placement: Placement) -> Image | None:
    """What its container is started from, None without one. Raises UsageError for no name of an image."""
    if placement.image is None:
        return None
    force = bool(placement.options.get("force_squash"))
    return resolve(placement.image, placement.options, force=force)


def image_word(placement: Placement) -> str:
    """The same for a script; an empty word without a container."""
    image = image_of(placement)
    place = image.place if image else ""
    if place.startswith(_RUN_DIR):
        return f'"$SLURM_SUBMIT_DIR"/{shell_words([place.removeprefix(_RUN_DIR)])}'
    return shell_words([place])
