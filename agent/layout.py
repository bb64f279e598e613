"""Names that the agent and the operator's side share: keys below a task's prefixes, and paths in the VM.

Constants only: in the packed agent their values are written where they are used.
"""

# In the VM.
GRANT = "/run/freepost/grant.json"  # unless FREEPOST_GRANT or --grant says otherwise; what follows lies beside it
GRANT_VARIABLE = "FREEPOST_GRANT"
GRANT_SOURCE = "%s.from"  # of a grant that lies in the bucket: where
JOURNAL = "%s.journal"
LOCK = "%s.lock"
TASK = "task.json"
FILES = "files"  # the folder of the job's own files
STATE = "state"
LOG = "log"
LOG_SLOT = "log.slot"  # what the slot that is written anew holds so far, where each object has a PUT of its own
SOCKET = "/run/freepost.sock"  # where a job whose user may not read the grant has its files stored
SCOPE = "freepost-job"  # systemd's unit of a job that runs as a user

# The addresses of a cloud's metadata service, which a job may not reach.
METADATA_IPV4 = "169.254.169.254"
METADATA_IPV6 = "fd00:ec2::254"

# The agent as it is packed: what separates its files, and the module that is unpacked last of the rest.
ARCHIVE_MARK = b"\f"
ARCHIVE_LAST = "compose"

# Below the outputs prefix.
PART = "%s.parts/%05d"  # of a file that was split: its name, and the part's number from 1
BUNDLE = ".bundles/%s.tar"

# Below the status prefix.
LOG_FOLDER = "log/"
LOG_SEGMENT = LOG_FOLDER + "%06d"
MANIFEST = "manifest.json"
MANIFEST_PART = "manifest/%06d"
LAUNCHED = "launched"  # posted by the operator
BOOTED = "booted"
STARTED = "started"
HEARTBEAT = "heartbeat"
INTERRUPTED = "interrupted"
SUCCEEDED = "succeeded"
FAILED = "failed"
EVENTS = (LAUNCHED, BOOTED, STARTED, HEARTBEAT, INTERRUPTED, SUCCEEDED, FAILED)
FINAL_EVENTS = (INTERRUPTED, SUCCEEDED, FAILED)
