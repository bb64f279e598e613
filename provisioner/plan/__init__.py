"""From a job to its grants: what is launched, what each VM may write, and how that is signed. Pure.

Nothing here reaches a network; `jobs.launch` carries a plan out.
"""
