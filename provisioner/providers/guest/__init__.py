"""Machines on the operator's own computer: what the `machine` and `qemu` providers share.

Each machine is a folder (`home`) and a supervisor process that outlives the launcher (`supervisor`), which runs the
guest in namespaces of its own (`capsule`, then `nspawn` or `vm`).
"""
