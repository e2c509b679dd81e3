# /// script
# [tool.runspec.config]
# default = "cluster"
# ///
