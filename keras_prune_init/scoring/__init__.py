"""What methods build on: gradients, losses, batches and checks."""
