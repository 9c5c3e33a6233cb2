"""`python -m reg4rec.cli`: the command line of a clone that is not installed."""

from reg4rec.cli import main

main()
