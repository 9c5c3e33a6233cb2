"""The command line: the stages by name, with the dataclasses of the Python API as flags."""

from reg4rec.cli.main import main

__all__ = ["main"]
