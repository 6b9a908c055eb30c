"""Measuring: the quality of results and models, the time and memory they take, and the paper's experiments on both."""
