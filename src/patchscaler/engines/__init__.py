"""What runs the networks: a protocol of five calls, arrays in and arrays out, and the engines that keep to it."""
