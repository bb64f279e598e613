"""`agent push` for a job whose user may not read the grant: `agent run` pushes, and asks for each file as it wants it.

The two talk over a Unix socket (SOCK_SEQPACKET) in JSON documents of at most TEXT bytes. The job's side begins::

    {"options": {…}} of `agent push`; or {"options": {…}, "stream": true} with a pipe of what standard input gives
    {"items": [[name, size, mtime, mode]…]}, any number of times; size -1: an empty directory
    {"failed": [[name, sentence, exit code]…]}, any number of times: what it could not look at
    {"go": true}

and then answers ``{"open": n}`` with the open file of the n-th item (SCM_RIGHTS), or {"error": sentence}; it writes
the text of {"say": [1 or 2, text]} to that output, and ends with {"code": exit code}. When the pipe has ended it says
{"end": bytes}: without that the stream was cut off.
"""

import json
import os
import sys
import threading
from array import array
from contextlib import suppress
from socket import AF_UNIX, SCM_RIGHTS, SOCK_SEQPACKET, SOL_SOCKET, socket

from agent import commands
from agent.files import Opened, scan
from agent.http import BLOCK, Failed
from agent.main import Bad, say

TEXT = 1 << 16


def tell(link, *files, **message):
    """Send a message, with open files by number."""
    rights = [(SOL_SOCKET, SCM_RIGHTS, array("i", files))] if files else []
    link.sendmsg([json.dumps(message).encode()], rights)


def knock(options, paths):
    """Have files pushed. Return the exit code; raise Bad when nobody does it."""
    items = ()
    with socket(AF_UNIX, SOCK_SEQPACKET) as link:
        try:
            link.connect(commands.DOOR)
        except OSError as error:
            raise Bad("%s: %s" % (commands.DOOR, error.strerror), 3) from None
        with suppress(ConnectionError):  # it may have told why before it hung up
            if paths == ["-"]:
                out, into = os.pipe()
                tell(link, out, options=options, stream=True)
                os.close(out)
                threading.Thread(target=pump, args=(link, into), daemon=True).start()
            else:
                found, failed = scan(paths, options.get("base", "."), options.get("as"), say)
                items = list(found.values())
                tell(link, options=options)
                rows(link, "items", [item[1:5] for item in items])
                rows(link, "failed", [(name[:999], str(failure), failure.exit) for name, failure in failed.items()])
                tell(link, go=True)
        return attend(link, items)


def rows(link, name, values):
    """Send a list, in as many messages as it takes: a name may take 6 KB."""
    for at in range(0, len(values), 9):
        tell(link, **{name: values[at : at + 9]})


def pump(link, into):
    """Write standard input to a pipe."""
    size = 0
    try:
        with open(into, "wb") as pipe, open(0, "rb", 0, closefd=False) as file:
            for data in iter(lambda: file.read(BLOCK), b""):
                size += pipe.write(data)
    except OSError:
        size = -1
    with suppress(OSError):
        tell(link, end=size)


def attend(link, items):
    """Do what `agent run` asks for. Return the exit code."""
    while True:
        try:
            heard = link.recv(TEXT)
        except ConnectionError:
            heard = b""
        message = json.loads(heard.decode() or '{"say": [2, "the agent hung up\\n"]}')
        if "say" in message:
            file = sys.stdout if message["say"][0] == 1 else sys.stderr
            file.write(message["say"][1])
            file.flush()
            if not heard:
                return 7
        elif "open" in message:
            with suppress(ConnectionError):
                try:
                    opened = Opened(items[message["open"]])
                except (OSError, Failed) as error:
                    tell(link, error=getattr(error, "strerror", None) or str(error))
                    continue
                with opened:
                    tell(link, opened.fd)
        else:
            return message["code"]
