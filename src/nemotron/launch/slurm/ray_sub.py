"""The framework's own ray.sub, which brings up Ray over the nodes and runs one command on the first."""

from __future__ import annotations

from nemotron.errors import UsageError
from nemotron.launch.slurm.image_word import image_word
from nemotron.planning.plan import Placement
from nemotron.planning.words import shell_words

_CHECKOUT = "/opt/nemo-rl"


def ray_sub_path(placement: Placement) -> str | None:
    """Where ray.sub is: as the profile says, or in the checkout that it mounts; None for neither."""
    asked = placement.options.get("ray_sub")
    if isinstance(asked, str):
        return asked
    for mount in placement.mounts:
        source, _, rest = mount.partition(":")
        if rest.partition(":")[0].rstrip("/") == _CHECKOUT:
            return f"{source.rstrip('/')}/ray.sub"
    return None


def ray_sub_body(placement: Placement) -> str:
    """Shell that exports what ray.sub reads, and puts its command into `step`. Raises UsageError."""
    path = ray_sub_path(placement)
    if path is None:
        raise UsageError(
            "ray_sub = true needs a checkout of the framework on the cluster",
            where="ray_sub",
            next=f'ray_sub = "/path/of/ray.sub", or patched = "/path/of/RL:{_CHECKOUT}"',
        )
    if placement.image is None:
        raise UsageError("ray.sub starts containers, and there is no image", where="ray_sub")
    exports = {
        "GPUS_PER_NODE": str(placement.gpus_per_node),
        # Read by the versions that have it; launch.sh runs these lines too, on the first node.
        "SETUP_COMMAND": "\n".join(placement.startup),
    }
    lines = [f"export {name}={shell_words([value])}\n" for name, value in exports.items()]
    return (
        f"export CONTAINER={image_word(placement)}\n"
        + "".join(lines)
        # It puts these into words of its own without quoting them.
        + 'case "$run" in *[!A-Za-z0-9_./@+=-]*) echo "ray.sub cannot be run in $run" >&2; exit 1;; esac\n'
        + "export MOUNTS=$mounts BASE_LOG_DIR=$run/logs NEMOTRON_RAY=external\n"
        + 'export COMMAND="bash $run/task.sh $mark"\n'
        + f"step=(bash {shell_words([path])})\n"
    )
