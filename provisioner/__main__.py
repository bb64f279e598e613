"""`python -m provisioner` is `provision`."""

from provisioner.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
