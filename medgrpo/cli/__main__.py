"""`python -m medgrpo.cli` is `medgrpo`."""

from medgrpo.cli import main

main()
