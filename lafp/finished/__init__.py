"""Acting: one step as a pure function of tensors, and its export to files that need no lafp."""
