"""The Trainer stage: the U-Net, what it learns from, how it is fitted and what is exported."""
