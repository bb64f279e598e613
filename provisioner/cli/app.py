"""The `provision` command."""

from provisioner.cli.jobs import app, main

__all__ = ["app", "main"]
