"""python -m guidxmage.cli, the same as the console command."""

from guidxmage.cli import main

main()
