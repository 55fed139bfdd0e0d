"""The Keras model as data: serialization, shapes, losses, names and state."""
