"""Buckets in place of folders, for all that goes through TFX's file-system layer."""
