"""`python -m pipeline` is `ich`."""

from pipeline.cli import main

if __name__ == "__main__":
    main(prog_name="ich")
