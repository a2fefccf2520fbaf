"""The Tuner stage: what is searched, how a trial is trained, and how the search goes on after a kill."""
