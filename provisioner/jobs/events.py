"""The names of events that are known outside the module that reports them. Constants only: commands import it."""

JOB = "job"  # a job was launched, or staged for a VM that something else starts
COLLECT = "collect"  # the summary of what `collect` did
RENEWAL = "renewal"  # a reminder that the job's policies have to be renewed
NOT_RENEWED = "not renewed"
