"""`python -m detector.tools`: the same program as `detector`."""

from detector.tools.cli import main

main()
