"""One module per object store: makes its client and translates the errors of that client."""
