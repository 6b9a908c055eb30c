"""PatchScaler: patch-independent latent diffusion that enlarges photos x4 (arXiv 2405.17158)."""

__version__ = "0.1.0"
