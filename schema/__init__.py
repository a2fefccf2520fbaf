"""Feature names and the curated schema of the slice examples."""
