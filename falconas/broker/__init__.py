"""The broker: a pure core and the loop around it."""
