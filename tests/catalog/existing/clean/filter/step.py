# /// script
# [tool.runspec]
# schema = "1"
# [tool.runspec.run]
# launch = "python"
# cmd = "uv run --extra clean python {script} --config {config}"
# [tool.runspec.config]
# format = "yaml"
# [tool.runspec.resources]
# gpus_per_node = 0
# ///
print("filter")
