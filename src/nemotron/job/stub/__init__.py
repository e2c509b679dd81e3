"""The trainer of a run with `--stub`: the smallest valid artifact of every type."""
