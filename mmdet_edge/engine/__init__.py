"""What runs a training or a test."""
