"""`python -m reg4rec.cli`: the command line without installation."""

from reg4rec.cli import main

main()
