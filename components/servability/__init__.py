"""Proves that a model can be served before it goes into service."""
