"""A running Ray cluster: runs handed to its Jobs API over plain HTTP; Ray itself is not imported."""
