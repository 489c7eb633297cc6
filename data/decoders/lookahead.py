"""Which frames of a stream nobody asks for, told before they are decoded, from the packets that come after theirs."""

import math
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Callable, Iterable, Iterator

import av

EXACT = frozenset({"h264"})
"""Codecs in which a frame that no other refers to can be left out, and all others come out the same.

HEVC says it only for frames of the same temporal layer or a lower one. Elsewhere there are few such frames.
"""

MAX_AHEAD = 64
"""Packets that are held back; H.264 shows a frame at most 16 frames later than it is decoded."""


class Wanted:
    """Times that are asked for, ascending: one after another to iterate over, and a look at those to come.

    Args:
        seconds: the times; as many are taken ahead as are looked at.
    """

    def __init__(self, seconds: Iterable[float]) -> None:
        self._coming = iter(seconds)
        self._ahead: deque[float] = deque()

    def __iter__(self) -> Iterator[float]:
        while self._ahead or self._take():
            yield self._ahead[0]
            self._ahead.popleft()

    def has_any(self, begin: float, end: float) -> bool:
        """Whether the time where the iteration is, or one to come, is in [begin, end)."""
        while not (self._ahead and self._ahead[-1] >= end) and self._take():
            pass
        return any(begin <= seconds < end for seconds in self._ahead)

    def _take(self) -> bool:
        for seconds in self._coming:
            self._ahead.append(seconds)
            return True
        return False


def with_need(packets: Iterable[av.Packet], is_wanted: Callable[[int, int], bool]) -> Iterator[tuple[av.Packet, bool]]:
    """The packets in their order, each with whether its frame has to come out.

    It has to where timestamps do not tell when the next one shows. The last two always have to, as they say when the
    video ends.

    Args:
        packets: in the order of decoding.
        is_wanted: whether a frame is asked for that shows from the first of these ticks until just before the second.

    Raises:
        av.FFmpegError: reading them does; those before have been yielded.
    """
    lookahead, problem = _Lookahead(is_wanted), None
    try:
        for packet in packets:
            yield from lookahead.add(packet)
    except av.FFmpegError as error:
        problem = error
    for packet in lookahead.waiting:
        yield packet, True
    if problem is not None:
        raise problem


class _Lookahead:
    """Holds packets back until it is known when the frame after theirs shows.

    No frame shows before it is decoded: so once one is decoded later than a frame shows, all that show before that one
    are known.
    """

    def __init__(self, is_wanted: Callable[[int, int], bool]) -> None:
        self.waiting: deque[av.Packet] = deque()
        self._is_wanted = is_wanted
        self._is_blind = False  # a packet broke that rule
        self._decoded = -math.inf  # ticks
        self._shown: list[int] = []  # ticks, ascending

    def add(self, packet: av.Packet) -> Iterator[tuple[av.Packet, bool]]:
        """Gives those that need not wait any longer."""
        self.waiting.append(packet)
        if packet.pts is None or packet.dts is None or not self._decoded <= packet.dts <= packet.pts:
            self._is_blind = True
        elif not packet.is_discard:
            self._decoded = packet.dts
            insort(self._shown, packet.pts)
        while self.waiting:
            head = self.waiting[0]
            is_needed = True
            if not (self._is_blind or head.is_discard or len(self.waiting) > MAX_AHEAD):
                following = bisect_right(self._shown, head.pts)
                if following == len(self._shown) or self._shown[following] >= self._decoded:
                    return
                is_needed = self._is_wanted(head.pts, self._shown[following])
                del self._shown[: bisect_left(self._shown, head.dts)]
            yield self.waiting.popleft(), is_needed
