"""Serves a finished agent to robots over HTTP, and the client that a robot copies."""
