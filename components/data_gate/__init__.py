"""The data gate: stops a run whose data does not hold what the schema says."""
