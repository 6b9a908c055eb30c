"""`patchscaler benchmark`: time, memory and arithmetic of every stage, on this machine, against other methods."""
