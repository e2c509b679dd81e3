"""What is installed, reachable and missing on this machine, for each engine and each executor."""
