"""How robust a trained network is, and whether its gradients can be trusted."""
