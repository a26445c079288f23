"""The command line ``vflowopt``: one file per command; frameworks are imported only when a command needs them."""

from vflowopt.cli.app import app

__all__ = ["app"]
