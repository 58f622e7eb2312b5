"""Training the bi-layer model on many people: folders in VoxCeleb2's layout, one process or many."""
