"""Video-DiT: text-to-video diffusion transformers."""
