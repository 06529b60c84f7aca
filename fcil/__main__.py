"""`python -m fcil` is the command `fcil`."""

from fcil.entry import main

main()
