"""The bi-layer model: a low-frequency image of a pose plus a texture warped onto it (Zakharov et al., ECCV 2020)."""
