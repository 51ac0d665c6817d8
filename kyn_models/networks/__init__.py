"""Parts that model families compose, with the parameter names of the official checkpoints. torch."""
