"""mimbench: a bench for masked image modeling."""

__version__ = "0.2.0.dev0"
