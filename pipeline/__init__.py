"""Configuration, the DAG, its runners and the command line."""

__version__ = "0.1.0"
