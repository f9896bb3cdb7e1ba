"""Run the command line as `python -m medseg`."""

from medseg.cli import main

main()
