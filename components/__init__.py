"""The stages of the pipeline, one folder each; `imaging` holds the domain code they share."""
