"""Measurements of our own speed, a module per thing that is measured."""
