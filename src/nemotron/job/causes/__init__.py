"""What ended an attempt, out of the logs of all nodes."""
