"""What methods stand on: gradients, losses, batches and checks."""
