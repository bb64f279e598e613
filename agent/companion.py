"""The base of what acts beside the job of `agent run`: the push server, the watch for spot notices, a reporter."""


class Companion:
    """A Task calls these methods as its job proceeds. Here they do nothing; a subclass overrides what it needs.

    To end the job and its uploads by a time, a companion may set the task's `reason`, shorten the ``grace`` of its
    `task`, set `latest` and `deadline` of its `pusher`, and call its `stop`. Besides it may refresh the journal of the
    `pusher`. Everything else of a Task it only reads.
    """

    def starting(self, task):
        """Called before the job's command starts. Raise OSError if the job must not start."""

    def started(self, task):
        """Called when the command has started."""

    def pushed(self, result):
        """Called after each push of outputs or of a checkpoint, with its Result."""

    def finishing(self, task):
        """Called when the job is over, before the outputs and the manifest are pushed."""

    def finished(self):
        """Called at the end of `agent run`, whether it succeeded or not."""
