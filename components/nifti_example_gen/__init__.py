"""The ingestion stage: NIfTI volumes in, one example per axial slice out."""
