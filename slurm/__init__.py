"""Launching on SLURM through submitit. Imported as `mimbench.slurm`."""
