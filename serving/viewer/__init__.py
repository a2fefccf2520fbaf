"""A scan and its masks on a page of this machine, or as PNG files where there is no browser."""
