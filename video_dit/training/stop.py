"""A run is asked to stop: by SIGTERM and SIGUSR1, with which schedulers announce that they will take the machine."""

import signal


class StopRequest:
    """From now on the signals end nothing; they are remembered.

    Attributes:
        asked: whether one has come.
    """

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._remember)

    def _remember(self, *_: object) -> None:
        self.asked = True
