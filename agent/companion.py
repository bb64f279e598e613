"""What acts beside the job of `agent run`."""


class Companion:
    """Is told by a Task how its job goes; it does nothing of it by itself."""

    def starting(self, task):
        """Act before the job's command starts. Raise OSError if the job must not start."""

    def started(self, task):
        """Act when the command has started."""

    def pushed(self, result):
        """Take notice of the Result of a push: of outputs, or of a checkpoint."""

    def finishing(self, task):
        """Act before the outputs are pushed, and so before the manifest."""

    def finished(self):
        """Act when all is done, or could not be done."""
