"""Files that put a pushed model on TensorFlow Serving: its own configuration, and Compose, Kubernetes and KServe."""
