"""Programs as CUDA graphs."""
