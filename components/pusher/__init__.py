"""Puts a blessed model in service."""
