"""`python -m hf_lifelong` and `accelerate launch -m hf_lifelong`: the command line."""

from .cli import main

main()
