"""The gate: TFMA measures every scan of the test split on its own grid, and rules bless or refuse."""
