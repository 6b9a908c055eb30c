"""Many pictures on many machines: Ray Data's job around the way of one picture."""
