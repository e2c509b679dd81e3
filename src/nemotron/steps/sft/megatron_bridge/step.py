"""Fine-tunes with Megatron-Bridge in its container: `torchrun ... step.py --config CONFIG`."""

from __future__ import annotations

import sys

from nemotron.engines.megatron_bridge.train import main

if __name__ == "__main__":
    sys.exit(main())
