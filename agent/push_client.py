"""`agent push` for a job whose user may not read the grant: the push server of `agent run` asks for one file at a time.

The protocol is in `agent.socket_protocol`.
"""

import os
import sys
import threading
from contextlib import suppress
from socket import AF_UNIX, SOCK_SEQPACKET, socket

from agent import layout
from agent.console import CommandError, say
from agent.errors import ExitCode, TransferError
from agent.files import OpenFile, scan
from agent.http import BLOCK
from agent.socket_protocol import STDOUT, receive_answer, send_message, send_rows


def push(options, paths):
    """Let the push server store files. Return the exit code; raise CommandError where there is none."""
    items = ()
    with socket(AF_UNIX, SOCK_SEQPACKET) as link:
        try:
            link.connect(layout.SOCKET)
        except OSError as error:
            raise CommandError("%s: %s" % (layout.SOCKET, error.strerror), ExitCode.NO_GRANT) from None
        with suppress(ConnectionError):  # the server may have said why before it hung up
            if paths == ["-"]:
                out, into = os.pipe()
                send_message(link, out, options=options, stream=True)
                os.close(out)
                threading.Thread(target=copy_stdin, args=(link, into), daemon=True).start()
            else:
                found, failed = scan(paths, options.get("base", "."), options.get("as"), say)
                items = list(found.values())
                send_message(link, options=options)
                send_rows(link, "items", [item[1:5] for item in items])
                send_rows(link, "failed", [(name[:999], str(error), error.exit) for name, error in failed.items()])
                send_message(link, go=True)
        return answer(link, items)


def copy_stdin(link, into):
    """Write standard input to a pipe."""
    size = 0
    try:
        with open(into, "wb") as pipe, open(0, "rb", 0, closefd=False) as file:
            for data in iter(lambda: file.read(BLOCK), b""):
                size += pipe.write(data)
    except OSError:
        size = -1
    with suppress(OSError):
        send_message(link, end=size)


def answer(link, items):
    """Do what `agent run` asks for. Return the exit code."""
    while True:
        message = receive_answer(link)
        if message is None:
            sys.stderr.write("the agent hung up\n")
            sys.stderr.flush()
            return ExitCode.UNREACHABLE
        if "say" in message:
            file = sys.stdout if message["say"][0] == STDOUT else sys.stderr
            file.write(message["say"][1])
            file.flush()
        elif "open" in message:
            with suppress(ConnectionError):
                try:
                    opened = OpenFile(items[message["open"]])
                except (OSError, TransferError) as error:
                    send_message(link, error=getattr(error, "strerror", None) or str(error))
                    continue
                with opened:
                    send_message(link, opened.fd)
        else:
            return message["code"]
