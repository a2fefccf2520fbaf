"""The data report: what a run's data is, what was found against it, and a look at it, as one page and as JSON."""
