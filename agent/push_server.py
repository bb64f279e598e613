"""Where the job's user has files pushed: processes beside `agent run` push for it, with the files that it can open.

For jobs that run as a user of their own; what is said there stands in agent/push_client.py. Nobody but that user may
connect, and each who does is served by a process of its own, which nothing it is told can take away from others. It
opens no file: it reads what the job could open for reading, and stores it where any output may lie.
"""

import json
import os
import resource
import signal
import stat
import struct
import sys
import threading
import time
from array import array
from contextlib import suppress
from fcntl import F_GETFL, fcntl
from socket import CMSG_SPACE, MSG_CMSG_CLOEXEC, MSG_TRUNC, SO_PEERCRED, SOCK_SEQPACKET, SOL_SOCKET, socket

from agent import task
from agent.commands import DOOR, make, number, report
from agent.files import Item
from agent.grant import KEY_BUDGET, decode_name, encode_name
from agent.http import STALL, Failed
from agent.main import Bad, load
from agent.push import Pusher
from agent.push_client import AF_UNIX, TEXT, tell

GUESTS, WORKERS = 8, 16  # connections served at once, while others wait; threads of each, and so files it has open
MEMORY, FILES = 512 << 20, 500000  # bytes and files of one connection


class Task(task.Task):
    """A Task whose user can push."""

    door = None

    def start(self):
        """Open the door, then start the command."""
        if self.user:
            self.door = Door(DOOR, self.user.pw_uid, self.path)
        super().start()

    def finish(self):
        """Shut the door, so that what the manifest tells is all that came through it, then finish."""
        if self.door:
            self.door.shut()
            self.pusher.journal.refresh()
        return super().finish()


class Door:
    """A socket at `path` for the user `uid`, served by processes of its own with the grant in the file `grant`."""

    def __init__(self, path, uid, grant):
        self.path, self.uid, self.grant = path, uid, grant
        with suppress(FileNotFoundError):
            os.unlink(path)
        self.listener = socket(AF_UNIX, SOCK_SEQPACKET)
        mask = os.umask(0o177)
        self.listener.bind(path)
        os.umask(mask)
        os.chown(path, uid, -1)
        self.listener.listen(64)
        self.watch, alive = os.pipe()  # ends when all of them have gone
        self.pid = os.fork()
        if not self.pid:
            try:
                os.close(self.watch)
                self.attend()
            finally:
                os._exit(1)
        os.setpgid(self.pid, self.pid)
        os.close(alive)
        self.listener.close()

    def shut(self):
        """End what is still under way, but for a manifest, and return when it has ended."""
        os.killpg(self.pid, signal.SIGTERM)
        os.waitpid(self.pid, 0)
        os.read(self.watch, 1)
        os.close(self.watch)
        os.unlink(self.path)

    def attend(self):
        """Let in whoever comes."""
        guests = set()
        while True:
            link = self.listener.accept()[0]
            while guests:
                gone = os.waitpid(-1, os.WNOHANG if len(guests) < GUESTS else 0)[0]
                if not gone:
                    break
                guests.remove(gone)
            with suppress(OSError):  # when there may be no more processes just now, the guest is told nothing
                pid = os.fork()
                if not pid:
                    try:
                        self.listener.close()
                        host(link, self.uid, self.grant)
                    finally:
                        os._exit(0)
                guests.add(pid)
            link.close()


def host(link, uid, path):
    """Serve one connection."""
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # sooner than any other process
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    link.settimeout(STALL)
    sys.stdout, sys.stderr = Voice(link, 1), Voice(link, 2)
    try:
        peer = struct.unpack("3i", link.getsockopt(SOL_SOCKET, SO_PEERCRED, 12))[1]
        if peer != uid:
            raise Bad("only user %d may push here, and this is user %d" % (uid, peer), 5)
        code = Guest(link).serve(path)
    except (Bad, Failed) as error:
        sys.stderr.write("agent: %s\n" % error.args[0])
        code = error.args[1] if isinstance(error, Bad) else error.exit
    tell(link, code=code)
    link.settimeout(2)
    while link.recv(TEXT):
        pass  # what is left unread would take the answer away with it


class Voice:
    """One of the guest's outputs."""

    def __init__(self, link, to):
        self.link, self.to = link, to

    def write(self, text):
        """Have text written."""
        for at in range(0, len(text), 9999):
            tell(self.link, say=[self.to, text[at : at + 9999]])

    def flush(self):
        """Nothing is kept back."""


class Host(Pusher):
    """A Pusher that others have processes beside."""

    alone = True

    def do(self, job, sender):
        """Do one job, within the memory that there is."""
        try:
            Pusher.do(self, job, sender)
        except MemoryError:
            raise Failed("there is no memory left for it", 6) from None

    def manifest(self, *_):
        """Store a manifest, which the job's end doesn't cut off: it mustn't arrive after the one that comes last."""
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        try:
            Pusher.manifest(self, False, time.time() + 60)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])


class Guest:
    """Somebody who has files pushed."""

    def __init__(self, link):
        self.link, self.lock, self.mine = link, threading.Lock(), threading.local()

    def hear(self):
        """Return what was said, and open files by number. Raise Failed."""
        text, rights, flags, _ = self.link.recvmsg(TEXT, CMSG_SPACE(4 * 253), MSG_CMSG_CLOEXEC)
        files = array("i")
        for _, _, data in rights:
            files.frombytes(data)
        try:
            if not text:
                raise Failed("the job hung up", 6, True)
            if flags & MSG_TRUNC:
                raise ValueError
            return dict(json.loads(text.decode())), files
        except (ValueError, TypeError, RecursionError):
            raise Failed("this is no request", 2, True) from None

    def serve(self, path):
        """Do what the guest wants. Return the exit code; raise Bad or Failed when nobody of good will would want it."""
        message, files = self.hear()
        options = message.get("options")
        if type(options) is not dict or not all(value is True or type(value) is str for value in options.values()):
            raise Bad("this is no request", 2)
        options["workers"] = str(min(WORKERS, number(options, "workers", "32")))
        grant = load(path)[0]  # anew for each: it may have been renewed
        self.room = KEY_BUDGET - len(grant.outputs.prefix.encode())
        if "stream" in message:
            from agent.push_stream import pour

            name = os.path.normpath(options.get("as", ""))
            if len(files) != 1:
                raise Bad("no pipe came with it", 2)
            self.check(encode_name(name))
            opened(files[0], stat.S_ISFIFO)
            pusher = make(Host, options, grant, path)
            return report(options, pusher, pour(pusher, Stream(self, files[0]), name))
        close(files)
        items, failed = {}, {}
        while True:
            message, files = self.hear()
            close(files)
            if "go" in message:
                pusher = make(Host, options, grant, path)
                return report(options, pusher, pusher.store(items, failed, "bundle" in options))
            try:
                for name, text, code in message.get("failed", ()):
                    failed[str(name)] = Failed(str(text), int(code))
                for name, size, mtime, mode in message.get("items", ()):
                    if type(size) is not int or size < -1 or type(mode) is not int or len(items) == FILES:
                        raise Bad("this is no request, or one of more than %d files" % FILES, 2)
                    try:
                        self.check(name[:-1] if size < 0 and name.endswith("/") else name)
                        items[name] = Item(Handed(self, len(items), size), name, size, float(mtime), mode, "/")
                    except Failed as failure:
                        failed[str(name)] = failure
            except (ValueError, TypeError, AttributeError):
                raise Bad("this is no request", 2) from None

    def check(self, name):
        """Raise Failed unless this is how `encode_name` writes a path below the base."""
        try:
            path = decode_name(name)
            good = os.path.normpath(path) == path and path[:1] != "/" and path.split("/")[0] not in (".", "..")
            if not good or "\0" in path or encode_name(path) != name:
                raise ValueError
        except (ValueError, TypeError, AttributeError):
            raise Failed("its name must be a relative path, without .., written as keys are", 2) from None
        if len(name.encode()) > self.room:
            raise Failed("its name is too long", 6)

    def fetch(self, index, size):
        """Return an open file of `size` bytes or more. Raise Failed."""
        with self.lock:
            tell(self.link, open=index)
            message, files = self.hear()
        try:
            if len(files) != 1:
                raise Failed(
                    str(message.get("error", "no open file came with it"))[:300], 6 if "error" in message else 5
                )
            found = opened(files[0], stat.S_ISREG)
            if found.st_size < size:
                raise Failed("it is said to have %d bytes, and has %d" % (size, found.st_size), 5)
        except Failed:
            close(files)
            raise
        return files[0]


class Handed:
    """The path of a guest's file: a file that is opened for each thread that asks for its number."""

    def __init__(self, guest, index, size):
        self.guest, self.index, self.size = guest, index, size

    def fileno(self):
        """Open it. Raise Failed."""
        self.guest.mine.file = [self.guest.fetch(self.index, self.size)]
        return self.guest.mine.file[0]

    def close(self):
        """Close this thread's."""
        close(self.guest.mine.file)

    def __fspath__(self):
        """It can be looked at, until another is."""
        if hasattr(self.guest.mine, "file"):
            self.close()
        return "/proc/self/fd/%d" % self.fileno()


class Stream:
    """Reads a pipe to its end, which counts only when its writer says that this was all."""

    def __init__(self, guest, fd):
        self.guest, self.fd, self.size, self.over = guest, fd, 0, False

    def read(self, size):
        """Return bytes; none at the end. Raise OSError."""
        data = b"" if self.over else os.read(self.fd, size)
        self.size += len(data)
        if size and not (data or self.over):
            said = {}
            with suppress(Failed):
                said = self.guest.hear()[0]
            if said.get("end") != self.size:
                raise OSError(0, "the stream was cut off")
            self.over = True
        return data


def close(files):
    """Close open files."""
    while files:
        os.close(files.pop())


def opened(fd, kind):
    """Return the stat of an open file that its sender may read. Raise Failed."""
    flags, found = fcntl(fd, F_GETFL), os.fstat(fd)
    if flags & os.O_PATH or flags & 3 not in (os.O_RDONLY, os.O_RDWR):
        raise Failed("it was not opened for reading", 5)
    if not kind(found.st_mode):
        raise Failed("it is no %s" % ("pipe" if kind is stat.S_ISFIFO else "plain file"), 5)
    return found
