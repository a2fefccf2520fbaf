"""`ich doctor`: whether this machine and environment can run everything, and what gets in the way."""
