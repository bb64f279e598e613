"""The protocol between `agent push` of a job that may not read the grant and the push server of `agent run`.

They talk over a Unix socket (SOCK_SEQPACKET) in JSON documents of at most TEXT bytes. The job's side begins::

    {"options": {…}} of `agent push`; or {"options": {…}, "stream": true} with a pipe of what standard input gives
    {"items": [[name, size, mtime, mode]…]}, any number of times; size -1: an empty directory
    {"failed": [[name, sentence, exit code]…]}, any number of times: what it could not look at
    {"go": true}

and then answers ``{"open": n}`` with the open file of the n-th item (SCM_RIGHTS), or {"error": sentence}; it writes
the text of {"say": [1 or 2, text]} to that output, and ends with {"code": exit code}. When the pipe has ended it says
{"end": bytes}: without that the stream was cut off. Both ends import this module.
"""

import json
from array import array
from socket import CMSG_SPACE, MSG_CMSG_CLOEXEC, MSG_TRUNC, SCM_RIGHTS, SOL_SOCKET

TEXT = 1 << 16
STDOUT, STDERR = 1, 2  # of "say"


def send_message(link, *files, **message):
    """Send a message, with open files by number."""
    rights = [(SOL_SOCKET, SCM_RIGHTS, array("i", files))] if files else []
    link.sendmsg([json.dumps(message).encode()], rights)


def send_rows(link, name, values):
    """Send a list, in as many messages as it takes: a name may take 6 KB."""
    for at in range(0, len(values), 9):
        send_message(link, **{name: values[at : at + 9]})


def receive_request(link):
    """Return what the job's side says, which is not to be trusted, and open files by number.

    Raise EOFError when it has hung up, and ValueError, TypeError or RecursionError for what is no message.
    """
    text, rights, flags, _ = link.recvmsg(TEXT, CMSG_SPACE(4 * 253), MSG_CMSG_CLOEXEC)
    files = array("i")
    for _, _, data in rights:
        files.frombytes(data)
    if not text:
        raise EOFError
    if flags & MSG_TRUNC:
        raise ValueError
    return dict(json.loads(text.decode())), files


def receive_answer(link):
    """Return what `agent run` says; None when it has hung up."""
    try:
        text = link.recv(TEXT)
    except ConnectionError:
        text = b""
    return json.loads(text.decode()) if text else None
