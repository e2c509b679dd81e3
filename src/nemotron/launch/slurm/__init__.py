"""Slurm from its login node: plain sbatch of a script of ours, and what became of it."""
