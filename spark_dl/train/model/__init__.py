"""The Keras model as data: its bytes, shape, losses, names and state."""
