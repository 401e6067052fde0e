"""A thread that writes files while training continues."""

import threading
from collections.abc import Callable


class Background:
    """Run tasks in a second thread, one at a time.

    The caller must `wait` for the last task before the process may end.
    """

    def __init__(self) -> None:
        self.thread: threading.Thread | None = None
        self.error: BaseException | None = None

    @property
    def busy(self) -> bool:
        """Return True while a task runs."""
        return self.thread is not None and self.thread.is_alive()

    def start(self, task: Callable[[], None]) -> None:
        """Wait for the previous task, then start another one. Raise the error of the previous."""
        self.wait()
        self.thread = threading.Thread(target=self.run, args=(task,), name="npgpt writer")
        try:
            self.thread.start()
        except RuntimeError:  # no memory for a thread
            self.thread = None
            task()

    def run(self, task: Callable[[], None]) -> None:
        """Run a task in the thread and keep its error."""
        try:
            task()
        except BaseException as error:
            self.error = error

    def check(self) -> None:
        """Raise the error of a task that has failed. Do not wait for one that runs."""
        if not self.busy:
            self.wait()

    def wait(self) -> None:
        """Wait for the task and raise its error, once."""
        if self.thread is not None:
            self.thread.join()
        self.thread, error, self.error = None, self.error, None
        if error is not None:
            raise error
