"""job.yaml: the specification of a job, its keys, and how it is read, overridden and judged. Pure."""
