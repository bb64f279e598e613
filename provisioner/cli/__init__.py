"""The command line: one module for each group of commands, which parses, calls and prints.

What a command does lives in `jobs`, `links`, `serve` and so on; nothing imports this package but ``__main__``.
"""
