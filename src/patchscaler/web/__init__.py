"""`patchscaler serve`: an HTTP API that enlarges pictures job by job, and a page in the browser on top of it."""
