"""`python -m udocker`."""

from udocker.cli import main

if __name__ == "__main__":
    main()
