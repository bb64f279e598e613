"""The options of the `agent` commands, and a Pusher that follows them."""

import time

from agent.console import CommandError, say
from agent.errors import ExitCode
from agent.layout import JOURNAL

USAGE = """agent push [--as NAME] [--base DIR] [--bundle] [--split-over BYTES] [--limit-rate BYTES] [--workers N] FILE…
      agent check [--as NAME] [--base DIR] FILE…
      agent pull [--into DIR]
      agent run
      all but run: [--grant FILE] [--json]; BYTES may end in K, M, G or T
      push and check: [--broker URL --token-file FILE] in place of a grant"""
FLAGS = ("bundle", "json", "help", "version")
VALUED = ("grant", "as", "base", "split-over", "limit-rate", "workers", "into", "broker", "token-file")


def parse(words):
    """Return ({option: value}, other arguments). Raise CommandError."""
    options, rest, words = {}, [], iter(words)
    for word in words:
        name, equals, value = word[2:].partition("=")
        if word == "--":
            rest += words
        elif word == "-h":
            options["help"] = True
        elif word[:2] != "--":
            rest.append(word)
        elif name in FLAGS and not equals:
            options[name] = True
        elif name in VALUED:
            options[name] = value if equals else next(words, "")
            if not options[name]:
                raise CommandError("--%s: needs a value" % name, ExitCode.USAGE)
        else:
            raise CommandError("there is no option %s; usage: %s" % (ascii(word), USAGE), ExitCode.USAGE)
    return options, rest


def number(options, name, default):
    """Return an option's number. Raise CommandError."""
    text = options.get(name, default)
    try:
        unit = "KMGT".find(text[-1]) + 1
        return int(float(text[: -1 if unit else None]) * 1024**unit)
    except (ValueError, OverflowError):
        raise CommandError("--%s: not a number such as 64M" % name, ExitCode.USAGE) from None


class Throttle:
    """Limits uploads to `rate` bytes a second, by waiting after bytes were counted."""

    def __init__(self, rate):
        self.rate, self.free = rate, 0

    def __call__(self, count, over):
        """Wait until `count` bytes may be sent, or `over` (a threading.Event) is set."""
        now = time.time()
        self.free = max(self.free, now) + count / self.rate
        over.wait(self.free - now)


def limit(pusher, rate):
    """Limit a pusher to `rate` bytes a second (0: no limit), and so to one process."""
    if rate:
        pusher.in_process, pusher.throttle = True, Throttle(rate)


def new_pusher(kind, options, grant, path):
    """Return a Pusher, of the class `kind`, by the options and the grant in the file `path`. Raise CommandError."""
    sizes = [number(options, *pair) for pair in (("workers", "32"), ("split-over", "1G"))]
    pusher = kind(grant, JOURNAL % path, *sizes, say=say)
    limit(pusher, number(options, "limit-rate", "0"))
    return pusher
