"""`python -m waypoint_parity`: the command line, without the script that installs it."""

import sys

from waypoint_parity.harness.cli.main import program

sys.exit(program())
