"""What runs inside a job. Standard library only: it is shipped with every run."""
