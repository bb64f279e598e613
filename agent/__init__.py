"""The VM's side of Freepost. Standard library only, Python 3.6 to 3.14."""

__version__ = "0.2.0"
