"""The VM's side of Freepost. Standard library only, Python 3.6 to 3.13."""

__version__ = "0.1.0"
