"""The agent as it travels: its sources made small, and the archives that hold them.

The steps, from the sources in ``agent/`` to an archive (1 and 2 are called by `sources`):

1. `minify.write_out` replaces the constants of `agent.layout` and the exit codes by their values.
2. `minify.shake` drops functions and constants that no other code names, such as those of the operator's side alone.
3. `rename` gives attributes, functions and classes the short names of ``short_names.json``.
4. `minify.shrink` marks which parameters may be renamed, then `python_minifier` shortens local names and drops
   docstrings, comments and spaces.
5. `agent_archive` chooses the modules that a VM gets, shakes once more, and compresses them with bzip2.

Steps 1 to 4 are the same for every VM, and their result is kept. How to read the traceback of a packed agent is in
`rename`. Nothing here knows of jobs: which archive a VM gets is decided in `userdata`.
"""
