"""Decides what `python -m vlmgym` runs: the command line."""

from vlmgym.cli import main

main()
