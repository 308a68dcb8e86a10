"""The place for launching on SLURM through submitit, imported as `mimbench.slurm`. Nothing is here yet.

What it will build on is: a job needs a run's path alone (`mimbench.job`), claims and checkpoints survive a kill, and the
plan is a graph with the parents of each run.
"""
