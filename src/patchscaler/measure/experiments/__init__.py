"""`patchscaler experiment`: the paper's tables and figures, rerun on a model that anyone has."""
