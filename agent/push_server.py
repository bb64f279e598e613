"""Pushes files for a job whose user may not read the grant: a server beside `agent run`, on a Unix socket.

The protocol is in `agent.socket_protocol`. Only the job's user may connect. Each connection has a process of its own,
so that no request can harm another. The server opens no file of the job's: the job's process opens it and hands it
over, so that only what that user can read is stored, below the outputs prefix like any output.
"""

import os
import resource
import signal
import stat
import struct
import threading
import time
from contextlib import redirect_stderr, redirect_stdout, suppress
from socket import AF_UNIX, SO_PEERCRED, SOCK_SEQPACKET, SOL_SOCKET, socket

from agent.companion import Companion
from agent.console import CommandError, say
from agent.errors import ExitCode, TransferError
from agent.files import Item
from agent.grant import KEY_BUDGET, decode_name, encode_name
from agent.grantfile import load
from agent.handoff import RemoteFile, RemoteStream, check_file, close
from agent.http import STALL
from agent.layout import SOCKET
from agent.options import new_pusher, number
from agent.push import Pusher
from agent.report import report
from agent.socket_protocol import STDERR, STDOUT, TEXT, receive_request, send_message

SESSIONS, WORKERS = 8, 16  # connections served at once, while others wait; threads of each, and so files it has open
MEMORY, FILES = 512 << 20, 500000  # bytes and files of one connection


class ServerCompanion(Companion):
    """Runs a PushServer as long as the job runs. The arguments are those of PushServer."""

    server = None

    def __init__(self, grant, compose):
        self.grant, self.compose = grant, compose

    def starting(self, task):
        """Let the job's user connect."""
        self.server = PushServer(SOCKET, task.user.pw_uid, self.grant, self.compose)

    def finishing(self, task):
        """Stop, so that what the manifest tells is all that came this way."""
        if self.server:
            self.server.stop()
            task.pusher.journal.refresh()


class PushServer:
    """A socket at `path` for the user `uid`, served by processes of its own with the grant in the file `grant`.

    `compose` gives what they push with: it is `agent.compose.compose`.
    """

    def __init__(self, path, uid, grant, compose):
        self.path, self.uid, self.grant, self.compose = path, uid, grant, compose
        with suppress(FileNotFoundError):
            os.unlink(path)
        self.listener = socket(AF_UNIX, SOCK_SEQPACKET)
        mask = os.umask(0o177)
        self.listener.bind(path)
        os.umask(mask)
        os.chown(path, uid, -1)
        self.listener.listen(64)
        self.alive, alive = os.pipe()  # ends when all of them have gone
        self.pid = os.fork()
        if not self.pid:
            try:
                os.close(self.alive)
                self.serve()
            finally:
                os._exit(1)
        os.setpgid(self.pid, self.pid)
        os.close(alive)
        self.listener.close()

    def stop(self):
        """End what is still under way, but for a manifest, and return when it has ended."""
        os.killpg(self.pid, signal.SIGTERM)
        os.waitpid(self.pid, 0)
        os.read(self.alive, 1)
        os.close(self.alive)
        os.unlink(self.path)

    def serve(self):
        """Accept connections, and fork a process for each."""
        sessions = set()
        while True:
            link = self.listener.accept()[0]
            while sessions:
                gone = os.waitpid(-1, os.WNOHANG if len(sessions) < SESSIONS else 0)[0]
                if not gone:
                    break
                sessions.remove(gone)
            with suppress(OSError):  # no more processes can be had just now; the client sees that the link is closed
                pid = os.fork()
                if not pid:
                    try:
                        self.listener.close()
                        serve_connection(link, self.uid, self.grant, self.compose)
                    finally:
                        os._exit(0)
                sessions.add(pid)
            link.close()


def serve_connection(link, uid, path, compose):
    """Serve one connection of the user `uid`, by the grant in the file `path`."""
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # sooner than any other process
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    link.settimeout(STALL)
    # All that is printed here is for the job's process, which has the terminal, or whatever reads it: what `report`
    # and the pusher say, too, who need not know that.
    with redirect_stdout(RemoteOutput(link, STDOUT)), redirect_stderr(RemoteOutput(link, STDERR)):
        code = push_for_peer(link, uid, path, compose)
    send_message(link, code=code)
    link.settimeout(2)
    while link.recv(TEXT):
        pass  # what is left unread would take the answer away with it


def push_for_peer(link, uid, path, compose):
    """Push what the peer asks for, if it is the user `uid`. Return the exit code."""
    try:
        peer = struct.unpack("3i", link.getsockopt(SOL_SOCKET, SO_PEERCRED, 12))[1]
        if peer != uid:
            text = "only user %d may push here, and this is user %d" % (uid, peer)
            raise CommandError(text, ExitCode.REFUSED)
        return PushSession(link, compose).serve(path)
    except CommandError as error:
        say("agent: %s" % error.args[0])
        return error.args[1]
    except TransferError as error:
        say("agent: %s" % error)
        return error.exit


class RemoteOutput:
    """Standard output or standard error of the job's process."""

    def __init__(self, link, number):
        self.link, self.number = link, number

    def write(self, text):
        """Send text for the job's process to write."""
        for at in range(0, len(text), 9999):
            send_message(self.link, say=[self.number, text[at : at + 9999]])

    def flush(self):
        """Do nothing: text is sent at once."""


class ServerPusher(Pusher):
    """A Pusher in one process of limited memory, beside those of other connections."""

    in_process = True

    def upload(self, unit, uploader):
        """Store one unit, within the memory that there is."""
        try:
            return Pusher.upload(self, unit, uploader)
        except MemoryError:
            raise TransferError("there is no memory left for it", ExitCode.SOME_FAILED) from None

    def manifest(self, *_):
        """Store a manifest, which the job's end doesn't cut off: it mustn't arrive after the one that comes last."""
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        try:
            Pusher.manifest(self, False, time.time() + 60)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])


class PushSession:
    """One `agent push` of the job: what it asks for, checked, and the files that it hands over."""

    def __init__(self, link, compose):
        self.link, self.compose, self.lock, self.per_thread = link, compose, threading.Lock(), threading.local()

    def receive(self):
        """Return what was said, and open files by number. Raise TransferError."""
        try:
            return receive_request(self.link)
        except EOFError:
            raise TransferError("the job hung up", ExitCode.SOME_FAILED, True) from None
        except (ValueError, TypeError, RecursionError):
            raise TransferError("this is no request", ExitCode.USAGE, True) from None

    def serve(self, path):
        """Push what is asked for. Return the exit code.

        Raise CommandError or TransferError for what no `agent push` would ask for.
        """
        message, files = self.receive()
        options = message.get("options")
        if type(options) is not dict or not all(value is True or type(value) is str for value in options.values()):
            raise CommandError("this is no request", ExitCode.USAGE)
        options["workers"] = str(min(WORKERS, number(options, "workers", "32")))
        grant, _ = load(path)  # anew for each: it may have been renewed
        self.room = KEY_BUDGET - len(grant.outputs.prefix.encode())
        if "stream" in message:
            from agent.push_stream import push_stream  # loaded for streams alone

            name = os.path.normpath(options.get("as", ""))
            if len(files) != 1:
                raise CommandError("no pipe came with it", ExitCode.USAGE)
            self.check_name(encode_name(name))
            check_file(files[0], stat.S_ISFIFO)
            pusher = self.new_pusher(options, grant, path)
            return report(options, pusher, push_stream(pusher, RemoteStream(self, files[0]), name))
        close(files)
        items, failed = {}, {}
        while True:
            message, files = self.receive()
            close(files)
            if "go" in message:
                pusher = self.new_pusher(options, grant, path)
                return report(options, pusher, pusher.store(items, failed, "bundle" in options))
            try:
                for name, text, code in message.get("failed", ()):
                    failed[str(name)] = TransferError(str(text), int(code))
                for row in message.get("items", ()):
                    self.add(items, failed, *row)
            except (ValueError, TypeError, AttributeError):
                raise CommandError("this is no request", ExitCode.USAGE) from None

    def new_pusher(self, options, grant, path):
        """Return the pusher of this session. Raise CommandError."""
        until, make_uploader, _ = self.compose(grant, path)
        grant = grant._replace(expires=until)
        pusher = new_pusher(ServerPusher, options, grant, path)
        pusher.make_uploader = make_uploader
        return pusher

    def add(self, items, failed, name, size, mtime, mode):
        """Add one file to `items` or, if its name may not be, to `failed`. Raise CommandError."""
        if type(size) is not int or size < -1 or type(mode) is not int or len(items) == FILES:
            raise CommandError("this is no request, or one of more than %d files" % FILES, ExitCode.USAGE)
        try:
            self.check_name(name[:-1] if size < 0 and name.endswith("/") else name)
            items[name] = Item(RemoteFile(self, len(items), size), name, size, float(mtime), mode, "/")
        except TransferError as error:
            failed[str(name)] = error

    def check_name(self, name):
        """Raise TransferError unless this is how `encode_name` writes a path below the base."""
        try:
            path = decode_name(name)
            good = os.path.normpath(path) == path and path[:1] != "/" and path.split("/")[0] not in (".", "..")
            if not good or "\0" in path or encode_name(path) != name:
                raise ValueError
        except (ValueError, TypeError, AttributeError):
            text = "its name must be a relative path, without .., written as keys are"
            raise TransferError(text, ExitCode.USAGE) from None
        if len(name.encode()) > self.room:
            raise TransferError("its name is too long", ExitCode.SOME_FAILED)

    def fetch(self, index, size):
        """Return an open file of `size` bytes or more. Raise TransferError."""
        with self.lock:
            send_message(self.link, open=index)
            message, files = self.receive()
        try:
            if "error" in message and len(files) != 1:
                raise TransferError(str(message["error"])[:300], ExitCode.SOME_FAILED)
            if len(files) != 1:
                raise TransferError("no open file came with it", ExitCode.REFUSED)
            found = check_file(files[0], stat.S_ISREG)
            if found.st_size < size:
                text = "it is said to have %d bytes, and has %d" % (size, found.st_size)
                raise TransferError(text, ExitCode.REFUSED)
        except TransferError:
            close(files)
            raise
        return files[0]
