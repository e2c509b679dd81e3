"""`python -m nemotron`, and what the console script calls."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; Ctrl-C is answered with exit code 130 even while modules are imported."""
    try:
        from nemotron.cli.app import command_line

        code = command_line(sys.argv[1:])
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
