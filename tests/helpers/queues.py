"""Queues of jobs for tests of what stands on them."""

from evals.jobs.queue import Jobs


class Waiting(Jobs):
    """Jobs that nobody works on."""

    def _start_worker(self) -> None:
        pass


class Worked(Jobs):
    """Jobs whose worker ends with the test."""

    def end(self) -> None:
        """End the worker."""
        if self._worker is not None:
            self._worker.terminate()
            self._worker.wait(30)
