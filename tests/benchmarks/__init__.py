"""The page of results: what its rows train, and how it words what they gave."""
