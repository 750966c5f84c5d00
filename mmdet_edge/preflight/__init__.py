"""What is checked before a training or a test starts."""
