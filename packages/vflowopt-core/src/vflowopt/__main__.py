"""``python -m vflowopt``, which launchers of several processes need."""

from vflowopt.cli import app

app(prog_name="vflowopt")
