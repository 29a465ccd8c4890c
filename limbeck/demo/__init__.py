"""A local page where a person asks teacher and student the same thing and sees both answer."""

from limbeck.demo.answers import Answer, Playground
from limbeck.demo.page import build, serve

__all__ = ["Answer", "Playground", "build", "serve"]
