"""Running a pushed model: its contract and prediction on whole scans."""
