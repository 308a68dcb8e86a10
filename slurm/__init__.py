"""Launching on SLURM through submitit, imported as `mimbench.slurm`.

profile.py    what a cluster is asked for (YAML in profiles/), checked before anything is submitted
submit.py     a plan's whole graph -> arrays, each task waiting for its own parents alone
queue.py      what squeue, scontrol and sacct say, with and without accounting
job.py        what a job carries out: a run's folder, requeued as often as it takes
distributed.py  the ranks of one job
doctor.py     whether all of it works here
cluster/      a real SLURM on this machine, to try it out
"""
