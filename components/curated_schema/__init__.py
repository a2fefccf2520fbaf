"""Hands the curated schema to the other stages."""
