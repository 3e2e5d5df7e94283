"""Fine-tuning: config, objective, loop and checkpoints around one :class:`~videodit.VideoDiT`."""
