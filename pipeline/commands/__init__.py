"""What the commands of `ich` have in common, and commands in modules of their own."""
