"""2D models beside the voxel avatar, to compare it with and in their own right: bi-layer and few-shot."""
