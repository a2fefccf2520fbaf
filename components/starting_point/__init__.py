"""What there is as a run starts."""
