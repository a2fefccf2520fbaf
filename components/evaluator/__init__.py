"""The gate: TFMA measures every scan of the test split on its own grid, and thresholds bless or refuse."""
