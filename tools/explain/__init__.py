"""`detector explain`: numbers and pictures that show how each operator works."""
