"""Where things are in a clip of the world, read off its pixels by a small network: how near, what is an object, and
its box."""
