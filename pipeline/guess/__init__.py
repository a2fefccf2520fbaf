"""`ich init`: what a data folder seems to hold, as a configuration to start from."""
