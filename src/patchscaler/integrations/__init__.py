"""PGS over the diffusion pipelines of others; docs/adapters.md."""
