"""Runs on Kubeflow Pipelines 2."""
