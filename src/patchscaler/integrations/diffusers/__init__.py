"""PatchScaler as a pipeline of diffusers."""
