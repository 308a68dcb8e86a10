"""Launching on SLURM through submitit, imported as `mimbench.slurm`. Nothing outside `mimbench/cli/` imports it.

profile.py      the resources that jobs request (YAML in profiles/), checked before anything is submitted
submit.py       a plan's whole graph -> jobs, each with a dependency on its own parents only
arrays.py       which runs share an array
sbatch.py       a request -> the script that submitit submits
queue.py        what squeue, scontrol and sacct answer, with or without accounting
job.py          what a job executes: one run, requeued as often as necessary
distributed.py  the ranks of one job
doctor.py       whether all of this works on the cluster
cluster/        a real SLURM on this machine, to try it out
"""
