"""Pictures as tensors: files, sizes and tiles, resizing, colour and fidelity."""
