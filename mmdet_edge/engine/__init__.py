"""What starts training and test runs, and hooks into them."""
