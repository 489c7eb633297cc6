"""Forward processes, objectives, guidance and solvers. The model is a callable here.

Time, everywhere: t = 0 is data and t = 1 is noise; x_t = alpha(t) latents + sigma(t) noise. For rectified flow
alpha = 1 - t, sigma = t and velocity = noise - latents (Esser et al. 2024, arXiv 2403.03206, equation 13).
"""

from collections.abc import Callable

from torch import Tensor

from video_dit.contracts import TextCondition

Denoiser = Callable[[Tensor, Tensor, TextCondition], Tensor]
"""x_t [B, C, F, H, W], t [B] and a text condition to the network's output [B, C, F, H, W]."""

VelocityField = Callable[[Tensor, Tensor], Tensor]
"""x_t [B, C, F, H, W] and t [B] to the velocity [B, C, F, H, W]; see `Process.velocity`."""
