"""The four stages of a pass, and what each needs of memory, files and processes."""
