"""Measured promises: every figure is a ratio, or a time or size on the machine that runs it."""
