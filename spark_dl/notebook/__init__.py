"""What notebooks show: figures as pictures, output that is updated in place, and HTML. IPython is never required."""
