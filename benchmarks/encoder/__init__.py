"""Train the encoder on simulated frames, and measure whether it is worth shipping."""
