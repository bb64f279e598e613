"""S3 without jobs: signing, one bucket's requests, its policy and CORS rules, and probes of what a store can do.

What a job's VMs may do is decided in `plan`; links for people are made in `links`.
"""
