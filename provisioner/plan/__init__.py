"""From a job to its grants: what is launched, what each VM may write, and how that is signed.

Pure but for the packed agent (`provisioner.plan.plan`). Nothing here reaches a network; `jobs.launch` carries a plan
out.
"""
