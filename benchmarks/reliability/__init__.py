"""Long and interrupted training runs."""
