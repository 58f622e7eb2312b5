"""Many people to train a 2D model on: folders in VoxCeleb2's layout, and a training loop for one process or many."""
