"""Separating the person from the background, and the head from the body."""
