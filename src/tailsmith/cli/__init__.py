"""The command line."""

from tailsmith.cli.main import main as main
