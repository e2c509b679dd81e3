# /// script
# requires-python = ">=3.11"
# dependencies = ["ray"]
# [tool.runspec]
# schema = "1"
# image = "registry.example.org/ray:2"
# run = { launch = "ray", workdir = "/opt/lab" }
# ///
