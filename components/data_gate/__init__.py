"""The data gate: ends a run whose data must not be trained on, after the report of it is written."""
