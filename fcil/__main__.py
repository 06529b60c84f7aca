"""`python -m fcil` is the command `fcil`."""

from fcil.cli import main

main()
