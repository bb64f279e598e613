"""A job's life: launch it, watch it, renew its grants, read its log, collect what it made, revoke and remove it.

What a job is lives in `job`, what its VMs may do in `plan`, and how a VM is started in `providers`.
"""
