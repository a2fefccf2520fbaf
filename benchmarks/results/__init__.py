"""Accuracy on real scans: trainings by plan, what became of each, and the page that shows it (docs/RESULTS.md)."""
