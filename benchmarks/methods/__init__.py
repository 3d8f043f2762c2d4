"""The methods that `lifelong.py` compares, each a function of the tasks and what it is given."""
