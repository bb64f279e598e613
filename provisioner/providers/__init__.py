"""Where VMs run: one module or package per provider, all subclasses of `base.Provider`.

`base` is the interface, and what plugins may rely on; `registry` finds a provider by its name; `retrying` repeats its
calls. Nothing here knows of jobs, of the bucket or of the command line.
"""
