"""What an output folder holds that nothing needs any more: found, listed, removed."""
