"""job.yaml: the specification of a job, its keys, and how it is read, overridden and judged.

No network and no processes: it reads the files that a job names. What is granted and launched for a job is decided in
`plan`.
"""
