"""How a clip is made: its size, which of its frames are given, and the windows that the model computes one by one."""

from typing import NamedTuple

from video_dit.config import Config
from video_dit.contracts import Autoencoder
from video_dit.errors import UserError
from video_dit.shapes import Grid, latent_grid, token_grid


class Window(NamedTuple):
    """Frames that the model computes at a time: where they start in the clip, and how many are there already."""

    start: int
    overlap: int


class Plan(NamedTuple):
    """A clip that fits.

    num_frames: of the whole clip, with those that are given.
    window: pixels that the model computes at a time.
    latents, tokens: the same, as the model sees it.
    fps: frames per second.
    overlap: frames that a further window shares with those before it; None where one window is all.
    num_known: frames that are there before the first window.
    num_last: frames at the end that are given.
    windows: from first to last; what the last one has too much is cut off.
    """

    num_frames: int
    window: Grid
    latents: Grid
    tokens: Grid
    fps: float
    overlap: int | None
    num_known: int
    num_last: int
    windows: tuple[Window, ...]

    @property
    def gives_frames(self) -> bool:
        """Some window is given frames."""
        return bool(self.num_last) or any(window.overlap for window in self.windows)


def plan_clip(
    config: Config,
    autoencoder: Autoencoder,
    *,
    num_frames: int | None = None,
    height: int | None = None,
    width: int | None = None,
    fps: float | None = None,
    window: int | None = None,
    overlap: int | None = None,
    image: bool = False,
    last_image: bool = False,
    video_frames: int = 0,
) -> Plan:
    """The plan of a clip.

    Args:
        config: of the run.
        autoencoder: of the run; its stride says which sizes fit.
        num_frames, height, width, fps: None as in training; after a video, one window's new frames.
        window: frames computed at a time; None: all of them, or after a video as many as in training.
        overlap: frames that a window shares with what is there; None: the most that can be given up to half of it.
        image: the first frame is given.
        last_image: the last frame is given.
        video_frames: so many frames are given at the beginning.

    Raises:
        UserError: the size does not fit the autoencoder or the patches, or frames cannot be given as asked.
    """
    trained = config.data.grid
    if video_frames and (image or last_image):
        raise UserError("a video is to be continued, and an image is given too: give one of them")
    length = window or (trained.frames if video_frames else num_frames or trained.frames)
    if num_frames is not None and not video_frames:
        length = min(length, num_frames)
    slides = bool(video_frames) or (num_frames or length) > length
    pixels = Grid(length, height or trained.height, width or trained.width)
    latents = latent_grid(pixels, autoencoder)
    tokens = token_grid(latents, config.model.patch_size)
    counts = givable(config, autoencoder, pixels) if slides or image or last_image else []
    if slides:
        overlap = _overlap(overlap, counts, length, video_frames or length)
    elif overlap is not None:
        raise UserError(f"overlap is {overlap}, and one window of {length} frames is the whole clip: leave overlap out")

    num_first = counts[0] if image else 0
    num_last = _latents_per_unit(config) * autoencoder.stride[0] if last_image else 0
    if last_image and slides:
        raise UserError(
            f"a last image is given, and windows of {length} frames do not reach from the first frame to the last: "
            "make num_frames and window the same"
        )
    if num_first + num_last >= length:
        raise UserError(f"the images take {num_first + num_last} frames, and the clip has {length}: make it longer")
    num_known = video_frames or num_first
    first = Window(video_frames - overlap, overlap) if video_frames and overlap else Window(0, num_first)
    num_frames = num_frames or first.start + length
    if num_frames <= num_known:
        raise UserError(f"num_frames is {num_frames}, and {num_known} frames are given: ask for more")
    windows = [first]
    while overlap and windows[-1].start + length < num_frames:
        windows.append(Window(windows[-1].start + length - overlap, overlap))
    rate = config.data.fps if fps is None else fps
    return Plan(num_frames, pixels, latents, tokens, rate, overlap, num_known, num_last, tuple(windows))


def givable(config: Config, autoencoder: Autoencoder, window: Grid) -> list[int]:
    """How many frames can be given at the beginning of a window, in ascending order.

    A mask channel marks latent frames, a timestep per frame marks tokens; and the autoencoder makes each of several
    pixel frames.

    Raises:
        UserError: none can.
    """
    if not (config.model.given_frames or config.diffusion.per_frame_noise):
        raise UserError(
            "frames are given to a model that was not trained for it: train one with model.given_frames = true or "
            "diffusion.per_frame_noise = true"
        )
    counts = []
    for count in range(1, window.frames):
        try:
            latents = latent_grid(window._replace(frames=count), autoencoder)
        except UserError:
            continue
        if latents.frames % _latents_per_unit(config) == 0:
            counts.append(count)
    if not counts:
        raise UserError(
            f"no frame can be given: the {window.frames} frames are one token long (model.patch_size = "
            f"{list(config.model.patch_size)}, autoencoder.name = {config.autoencoder.name}): make the clip longer"
        )
    return counts


def still_length(autoencoder: Autoencoder, window: Grid, num_last: int) -> int:
    """Frames of a still from whose latents the last are those of a clip that ends with `num_last` such frames."""
    length = num_last + int(autoencoder.causal)  # whose first latent frame is unlike the others
    while True:
        try:
            latent_grid(window._replace(frames=length), autoencoder)
        except UserError:
            length += 1
        else:
            return length


def _latents_per_unit(config: Config) -> int:
    """Latent frames that are given together: a token that is given in part would have no timestep of its own."""
    return 1 if config.model.given_frames else config.model.patch_size[0]


def _overlap(asked: int | None, counts: list[int], length: int, num_there: int) -> int:
    fitting = [count for count in counts if count <= num_there]
    if not fitting:
        raise UserError(f"the video has {num_there} frames, and at least {counts[0]} must be given: take a longer one")
    if asked is None:
        return max([count for count in fitting if count <= length // 2] or fitting[:1])
    if asked not in fitting:
        raise UserError(f"overlap is {asked}: of a window of {length} frames, use {_listed(fitting)}")
    return asked


def _listed(counts: list[int]) -> str:
    words = [str(count) for count in counts]
    return " or ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]
