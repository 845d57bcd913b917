"""`detector explain`: figures of what each operator does."""
