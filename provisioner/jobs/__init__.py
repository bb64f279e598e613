"""A job's life: launch it, watch it, renew its grants, read its log, collect what it made, revoke and remove it.

- What the library hands out: `job`, by objects that `factory` makes; `stores` chooses and opens a store, `index` finds
  a job in one, `record` is what the bucket holds of it. `events` has the names of events that others look for.
- A launch: `launch` has its steps in order; `staging` uploads what VMs fetch, `vm_documents` makes what a VM is given,
  `orders` orders the VMs, `journal` notes each order in the bucket. `rendering` is for VMs that something else starts.
- Signatures: `signers` for VMs and for our own test uploads, `role_session` for sessions of a role.
- After it: `status` reads what the VMs posted, `decide` says what that means (pure), `watch` acts on it; `renew`,
  `revoke`, `logs`, `collect` and `terminate` are the verbs of these names; `removal` deletes a job.
- For all jobs: `doctor` says whether one could be launched, `gc` removes what old ones left behind.

What a job is lives in `provisioner.job`, what its VMs may do in `plan`, and how a VM is started in `providers`.
"""
