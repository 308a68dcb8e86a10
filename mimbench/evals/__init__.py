from mimbench import compat as compat  # before mmseg
