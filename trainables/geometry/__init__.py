"""Where training went in weight space: distances, subspaces and singular vectors, compared layer by layer."""
