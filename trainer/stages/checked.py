"""`envs.arguments.checked` under the name that stages know it by."""

from envs.arguments import checked

__all__ = ["checked"]
