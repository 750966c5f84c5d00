"""What the edge loss and the evaluation cost."""
