"""A model server of our own for machines without Docker: TF Serving's interfaces, one process, one model."""
