"""The way from examples to datums: tokens and loss weights, choices, the places of images, and their cache."""
