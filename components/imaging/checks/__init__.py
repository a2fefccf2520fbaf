"""Checks of scans, masks and cohorts: each finding has a code, a severity, an explanation and a remedy.

Import what you need from the modules; this one stays light, because the configuration reads the registry.
"""
