"""What goes first when time is short."""

import time


def order(pusher, items):
    """Return items in the order given or, when by the rate of earlier pushes time is short, logs and small first."""
    left = min(pusher.deadline or pusher.grant.expires, pusher.grant.expires) - time.time()
    need = sum(item.size for item in items) / (pusher.journal.rate or 1e99)
    if need < left:
        return items
    pusher.say("warning: this takes %d s and %d s are left; small files go first" % (need, left))
    return sorted(items, key=lambda item: (not item.name.endswith(".log"), item.size))
