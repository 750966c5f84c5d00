"""Reading and editing parsed configs."""
