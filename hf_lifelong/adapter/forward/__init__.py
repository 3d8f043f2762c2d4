"""A forward pass as a row of values, each made once: query → routing → plan → answer.

`query` says what is asked, `retrieval` (beside this package) where inputs go, `plan` which members run, `answer` what
they say; `context` holds the values of the calls under way, `conductor` and `causal` are the hooks that make them, and
`predict` and `generate` are how a model is asked.
"""
