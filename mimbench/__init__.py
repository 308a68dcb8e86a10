"""mimbench: a bench for masked image modeling."""

__version__ = "0.1.1"
