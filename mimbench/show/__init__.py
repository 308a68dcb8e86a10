"""Looking at what a row does: one file per thing that `mimbench show` draws or prints."""
