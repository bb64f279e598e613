"""The job's process: its command, and everything that the command starts.

A job that runs as a user of its own is a scope of systemd, which ends all of it, and can't reach the metadata service;
any other job is a process group.
"""

import os
import signal
import subprocess
from contextlib import suppress

from agent import layout

# The addresses of the metadata service, where any process could read the user-data: the option of `ip`, the address,
# and a path that exists where the VM has that protocol.
METADATA = ("-4", layout.METADATA_IPV4, "/"), ("-6", layout.METADATA_IPV6, "/proc/net/if_inet6")


def start(task, user, grant, path):
    """Start the command of a task as `user` (a pwd entry, or None). Return its Popen.

    `path` is the grant's. Raise OSError or CalledProcessError.
    """
    command = task["command"]
    env = {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8"}
    if user:
        env.update(HOME=user.pw_dir, USER=user.pw_name)
        for family, address, exists in METADATA:
            if os.path.exists(exists):
                # Whoever it may become in a user namespace has a uid above its own, of /etc/subuid.
                rule = "ip %s rule add uidrange %d-4294967294 to %s prohibit"
                subprocess.check_call((rule % (family, user.pw_uid, address)).split())
        command = ["systemd-run", "-q", "--scope", "--unit=" + layout.SCOPE, "--uid=" + user.pw_name] + command
    else:
        env.update({"HOME": task["workdir"], layout.GRANT_VARIABLE: path})
    for name, value in zip(("JOB", "TASK", "ATTEMPT"), grant):
        env["FREEPOST_" + name] = str(value)
    env.update(task["env"])

    with open(layout.LOG, "ab") as log:
        return subprocess.Popen(
            command,
            cwd=task["workdir"],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=lead_group,  # noqa: PLW1509 - Python 3.6 has no other way; threads start after it
        )


def lead_group():
    """Lead a process group, at the lowest priority: however many processes the job makes, the agent can end them."""
    os.setpgrp()
    os.nice(39)  # to 19, the most there is


def signal_job(process, user, number):
    """Send a signal to everything that the job started: its scope, or its process group."""
    if user:
        if number == signal.SIGKILL:
            # Faster than processes can fork, and it takes no process of ours. Linux before 5.14 has no such file.
            with suppress(OSError), open(
                "/sys/fs/cgroup/system.slice/%s.scope/cgroup.kill" % layout.SCOPE, "w"
            ) as file:
                file.write("1")
                return
        subprocess.call(["systemctl", "-q", "kill", "-s%d" % number, layout.SCOPE + ".scope"])
    else:
        with suppress(OSError):  # all of it has gone
            os.killpg(process.pid, number)
