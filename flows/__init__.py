"""Flows chain tools: one imperative name each."""
