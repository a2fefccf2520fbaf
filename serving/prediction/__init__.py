"""From a scan to a mask and what is told of it, by a model at hand or a server's.

What only predicts stands apart from `serving` itself, whose code is exported with a model and counts for its cache key.
"""
