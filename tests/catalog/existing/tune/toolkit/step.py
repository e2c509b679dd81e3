#!/usr/bin/env python3
# /// script
# [tool.runspec]
# schema = "1"
# name = "steps/tune/toolkit"
# docs = "https://example.org/toolkit"
# setup = "pip install toolkit"
# image = "registry.example.org/toolkit:24.01"
#
# [tool.runspec.run]
# launch = "torchrun"
#
# [tool.runspec.config]
# dir = "./config"
# default = "default"
# format = "omegaconf"
#
# [tool.runspec.resources]
# nodes = 2
# gpus_per_node = 4
#
# [tool.runspec.env]
# ANY_NAME = "any value"
# ///
"""Raises on import: a catalog reads the header only."""

raise RuntimeError("a step was imported")
