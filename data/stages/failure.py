"""What goes wrong with one clip."""

from video_dit.errors import UserError


class ClipError(UserError):
    """A clip that cannot be captioned or scored; the message says why. It costs this clip alone."""
