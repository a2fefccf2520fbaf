"""The Transform stage: HU windowing in the graph, the same for training and serving."""
