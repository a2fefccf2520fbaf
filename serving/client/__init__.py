"""The client of TF Serving: an engine whose network runs on a server."""
