"""Machines on the operator's own computer: what the `machine` and `qemu` providers share.

Each machine is a folder (`state_dir`) and a supervisor process that outlives the launcher (`supervisor`, started and
stopped by `supervisor_client`). The supervisor runs `namespace_init` in namespaces of its own, and that runs the guest:
a container (`nspawn`) or a VM (`qemu`). `provider` holds the methods, `record` what is written down of an order,
`images` what boots. Nothing here knows of jobs or of the bucket: of a job, a machine has the user-data.
"""
