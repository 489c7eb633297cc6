"""What a captioner takes and gives."""

from typing import Protocol

from data.sources.captions import clean
from data.stages.failure import ClipError
from data.stages.frames import ClipFrames


class Captioner(Protocol):
    """Describes clips. What it says of one does not depend on the others."""

    def caption(self, clips: list[ClipFrames]) -> list[str | ClipError]:
        """For each clip its caption, which is one line, or why it has none.

        Raises:
            UserError: no clip can be captioned, such as when a server is not there.
        """
        ...


def one_line(said: str) -> str:
    """A caption, cleaned as those of data/sources/captions.py.

    Raises:
        ClipError: the captioner said nothing.
    """
    caption, _ = clean(said)
    if not caption:
        raise ClipError("the captioner said nothing")
    return caption
