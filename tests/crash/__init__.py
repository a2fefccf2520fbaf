"""Runs that are killed, or find the disk full, the clock set back, the database locked, or another run there."""
