"""`python -m ringblk` is `ringblk`."""

from ringblk.engine.program.cli import main

if __name__ == "__main__":
    main()
