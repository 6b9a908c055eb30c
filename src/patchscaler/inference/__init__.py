"""From a picture to a larger one: the parts, the way through them, and what it needs to be of any size and speed."""
